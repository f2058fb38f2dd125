import errno
import io
import tempfile

import pytest

from model_build.common.errors import JobError
from pipeline.storage.faults import (
    BadName,
    Unauthenticated,
    Unavailable,
    affects_all_files,
    as_job_error,
    as_os_error,
    describe_error,
    is_name_error,
    on_temporary_disk,
    remedy,
    temporary_folder,
)
from pipeline.storage.stores.table import store_of


def raised(error, path):
    """Returns the exception of storage for an error of a store's client."""
    return as_os_error(error, path, store_of(path))


def of_amazon(code, status, message="said why"):
    """Returns the exception of s3fs for an answer of the store."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return translate_boto_error(ClientError(answer, "PutObject"))


def of_google(status, message="said why"):
    """Returns the exception of gcsfs for an answer of the store."""
    from gcsfs.retry import validate_response

    content = f'{{"error": {{"code": {status}, "message": "{message}"}}}}'.encode()
    with pytest.raises(Exception) as caught:  # noqa: PT011  (its class is what is looked into)
        validate_response(status, content, "b/k")
    return caught.value


def of_azure(status):
    from azure.core.exceptions import HttpResponseError

    error = HttpResponseError("said why")
    error.status_code = status
    return error


# Whose fault it is


@pytest.mark.parametrize(
    ("error", "everybodys", "names"),
    [
        (OSError(errno.ENOSPC, "full"), True, False),
        (OSError(errno.EDQUOT, "quota"), True, False),
        (OSError(errno.EROFS, "read-only"), True, False),
        (OSError(errno.EMFILE, "open files"), True, False),
        (OSError(errno.ENFILE, "open files"), True, False),
        (OSError(errno.ENOMEM, "memory"), True, False),
        (OSError(errno.ESTALE, "stale"), True, False),
        (OSError(errno.ENODEV, "gone"), True, False),
        (Unavailable("no answer"), True, False),
        (Unauthenticated("expired"), True, False),
        (OSError(errno.EIO, "a bad sector"), False, False),
        (PermissionError(errno.EACCES, "no"), False, False),
        (FileNotFoundError(errno.ENOENT, "no"), False, False),
        (OSError("of a store"), False, False),
        (OSError(errno.ENAMETOOLONG, "too long"), False, True),
        (OSError(errno.EILSEQ, "not UTF-8"), False, True),
        (OSError(errno.EINVAL, "no such name on FAT"), False, True),
        (NotADirectoryError(errno.ENOTDIR, "a file"), False, True),
        (IsADirectoryError(errno.EISDIR, "a folder"), False, True),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogate"), False, True),
        (BadName("cannot be said"), False, True),
        (ValueError("our own"), False, False),
        (MemoryError(), False, False),
    ],
)
def test_a_fault_is_everybodys_or_a_names_or_neither(error, everybodys, names):
    assert (affects_all_files(error), is_name_error(error)) == (everybodys, names)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (OSError(errno.ENOSPC, "full"), "free some space"),
        (OSError(errno.EROFS, "read-only"), "make the disk writable"),
        (OSError(errno.EMFILE, "open files"), "ulimit -n"),
        (Unauthenticated("expired"), "renew the credentials"),
        (PermissionError(errno.EACCES, "no"), "check the permissions"),
        (Unavailable("no answer"), "check the network and the store's quota"),
        (FileNotFoundError(errno.ENOENT, "no"), "restore it"),
        (OSError(errno.EIO, "a bad sector"), "check the disk or store"),
        (OSError("of a store"), "check the disk or store"),
        (ValueError("other"), "check the disk or store"),
    ],
)
def test_each_fault_has_its_remedy(error, what):
    assert what in remedy(error)


def test_a_fault_is_told_with_the_files_name():
    assert (
        describe_error(OSError(errno.ENOSPC, "No space left", "/o/a.png"))
        == "/o/a.png: No space left"
    )
    assert describe_error(OSError("s3://b/k: no answer\nmore")) == "s3://b/k: no answer"
    assert describe_error(io.UnsupportedOperation()) == "UnsupportedOperation"


def test_what_a_disk_cannot_do_ends_the_job_with_the_remedy():
    cause = OSError(errno.ENOSPC, "No space left", "/o/a.png")
    told_with_remedy = pytest.raises(JobError, match=r"^/o/a\.png: No space left; free some space$")
    with told_with_remedy as caught, as_job_error():
        raise cause
    assert caught.value.__cause__ is cause


def test_what_is_no_fault_of_a_disk_passes_as_it_is():
    with pytest.raises(ValueError, match="ours"), as_job_error():
        raise ValueError("ours")
    with as_job_error():
        pass


# What the stores' clients raise


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ExpiredToken", 400, Unauthenticated),
        ("InvalidToken", 400, Unauthenticated),
        ("TokenRefreshRequired", 400, Unauthenticated),
        ("InvalidAccessKeyId", 403, Unauthenticated),
        ("SignatureDoesNotMatch", 403, Unauthenticated),
        ("RequestTimeTooSkewed", 403, Unauthenticated),
        ("401", 401, Unauthenticated),
        ("AccessDenied", 403, PermissionError),
        ("403", 403, PermissionError),
        ("NoSuchKey", 404, FileNotFoundError),
        ("NoSuchBucket", 404, FileNotFoundError),
        ("404", 404, FileNotFoundError),
        ("SlowDown", 503, Unavailable),
        ("ServiceUnavailable", 503, Unavailable),
        ("InternalError", 500, Unavailable),
        ("TooManyRequests", 429, Unavailable),
        ("KeyTooLongError", 400, BadName),
        ("InvalidArgument", 400, OSError),
        ("InvalidRequest", 400, OSError),
        ("PermanentRedirect", 301, OSError),
        ("EntityTooLarge", 400, OSError),
    ],
)
def test_what_amazons_client_raises(code, status, kind):
    error = raised(of_amazon(code, status), "s3://b/a.png")
    assert type(error) is kind
    assert "s3://b/a.png: " in describe_error(error)
    assert affects_all_files(error) == (kind in (Unauthenticated, Unavailable))
    assert is_name_error(error) == (kind is BadName)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, OSError),
        (401, Unauthenticated),
        (403, PermissionError),
        (404, FileNotFoundError),
        (409, OSError),
        (412, FileExistsError),
        (429, Unavailable),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
    ],
)
def test_what_googles_client_raises(status, kind):
    error = raised(of_google(status), "gs://b/a.png")
    assert type(error) is kind
    assert "gs://b/a.png: " in describe_error(error)
    assert not is_name_error(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, OSError),
        (401, Unauthenticated),
        (403, PermissionError),
        (404, FileNotFoundError),
        (429, Unavailable),
        (503, Unavailable),
    ],
)
def test_what_azures_client_raises(status, kind):
    pytest.importorskip("azure.core", reason="the extra azure is not installed")
    error = raised(of_azure(status), "az://c/a.png")
    assert type(error) is kind
    assert "az://c/a.png: " in describe_error(error)


def credentials_errors():
    import botocore.exceptions
    import google.auth.exceptions

    yield botocore.exceptions.NoCredentialsError()
    yield botocore.exceptions.PartialCredentialsError(provider="p", cred_var="v")
    yield botocore.exceptions.CredentialRetrievalError(provider="p", error_msg="no")
    yield botocore.exceptions.UnauthorizedSSOTokenError()
    yield google.auth.exceptions.RefreshError("expired")
    yield google.auth.exceptions.DefaultCredentialsError("none")


def path_for(error):
    """A file of the store whose client raises an error of this library."""
    return "gs://b/a.png" if type(error).__module__.startswith("google.") else "s3://b/a.png"


@pytest.mark.parametrize("error", credentials_errors(), ids=lambda error: type(error).__name__)
def test_credentials_that_are_missing_or_expired(error):
    path = path_for(error)
    for one in (error, caused_by(RuntimeError("wrapped"), error)):
        found = raised(one, path)
        assert type(found) is Unauthenticated
        assert describe_error(found).startswith(f"{path}: the credentials were not accepted (")


def caused_by(error, cause):
    error.__cause__ = cause
    return error


def connection_errors():
    import botocore.exceptions
    import google.auth.exceptions

    yield botocore.exceptions.EndpointConnectionError(endpoint_url="http://x")
    yield botocore.exceptions.ReadTimeoutError(endpoint_url="http://x")
    yield google.auth.exceptions.TransportError("reset")
    yield ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    yield TimeoutError()


@pytest.mark.parametrize("error", connection_errors(), ids=lambda error: type(error).__name__)
def test_a_store_that_does_not_answer(error):
    found = raised(error, path_for(error))
    assert type(found) is Unavailable
    assert describe_error(found).startswith(f"{path_for(error)}: the store does not answer (")


def test_an_error_of_no_store_passes_as_it_is():
    for error in (IsADirectoryError("/b/x"), NotADirectoryError("/b/x"), BadName("b")):
        assert raised(error, "memory://b/x") is error


def test_anything_else_is_told_with_its_class():
    found = raised(KeyError("generation"), "gs://b/a.png")
    assert (type(found), str(found)) == (OSError, "gs://b/a.png: KeyError: 'generation'")


def test_a_name_that_says_forbidden_is_no_lack_of_permission():
    found = raised(ValueError("gs://b/Forbidden City.jpg: is odd"), "gs://b/Forbidden City.jpg")
    assert type(found) is OSError


def web_errors():
    import aiohttp

    yield aiohttp.ServerDisconnectedError()
    yield aiohttp.ServerTimeoutError("read")
    yield aiohttp.ClientPayloadError("cut off")
    yield aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer")
    yield ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    yield TimeoutError()


@pytest.mark.parametrize("error", web_errors(), ids=lambda error: type(error).__name__)
def test_a_web_server_that_does_not_answer_is_the_fault_of_its_files(error):
    found = raised(error, "https://dead.example/a.jpg")
    assert not affects_all_files(found)
    assert describe_error(found).startswith("https://dead.example/a.jpg: the server refused it (")


def test_a_full_disk_of_temporary_files_is_named(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/full")
    with (
        pytest.raises(JobError, match=r"^/full: cannot hold .*: No space left .* set TMPDIR to"),
        on_temporary_disk(),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_missing_disk_of_temporary_files_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(JobError, match=r"/gone: cannot hold temporary files"), temporary_folder():
        pass

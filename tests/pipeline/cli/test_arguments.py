import argparse

import click
import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    TypeOptions,
    WorkerOptions,
)

from pipeline.cli.arguments import own_options, split_arguments

OWN = ["--output", "--overlays", "--overwrite", "--long-side"]


def split(*arguments):
    """The INPUTs, and what Beam makes of the options that are left."""
    inputs, options = split_arguments(arguments, OWN)
    return inputs, PipelineOptions(options)


def test_arguments_without_options_are_inputs():
    inputs, options = split("photos", "a b.jpg", "gs://b/*.jpg", "@list.txt", "-")
    assert inputs == ["photos", "a b.jpg", "gs://b/*.jpg", "@list.txt", "-"]
    assert options.get_all_options(drop_default=True) == {}


def test_beams_options_are_taken_out_of_the_inputs():
    inputs, options = split(
        *("one", "--runner", "DataflowRunner", "two", "--project=p", "--region", "r", "three")
    )
    assert inputs == ["one", "two", "three"]
    assert options.view_as(StandardOptions).runner == "DataflowRunner"
    assert options.view_as(GoogleCloudOptions).project == "p"
    assert options.view_as(GoogleCloudOptions).region == "r"


def test_options_of_several_kinds():
    _, options = split(
        *("--streaming", "--experiments", "a", "--experiments=b=1"),
        *("--num_workers", "3", "--labels", "x=y", "--sdk_worker_parallelism", "2"),
    )
    assert options.view_as(StandardOptions).streaming is True
    assert options.view_as(DebugOptions).experiments == ["a", "b=1"]
    assert options.view_as(WorkerOptions).num_workers == 3
    assert options.view_as(GoogleCloudOptions).labels == ["x=y"]


def test_options_left_out_keep_beams_default():
    _, options = split("photos", "--project", "p")
    assert options.get_all_options(drop_default=True) == {"project": "p"}


@pytest.mark.parametrize(
    ("arguments", "view", "name", "value"),
    [
        (["--no_pipeline_type_check"], TypeOptions, "pipeline_type_check", False),
        (["--no_use_public_ips"], WorkerOptions, "use_public_ips", False),
        (["--no_save_main_session"], SetupOptions, "save_main_session", False),
        (["--save_main_session"], SetupOptions, "save_main_session", True),
    ],
)
def test_switches(arguments, view, name, value):
    inputs, options = split("photos", *arguments)
    assert inputs == ["photos"]
    assert getattr(options.view_as(view), name) is value


def _sample(action):
    """An option of Beam's as one would give it."""
    option = action.option_strings[-1]
    if action.nargs == 0:
        return [option]
    if action.choices:
        return [option, str(next(iter(action.choices)))]
    for value in ("1", '{"a": "b"}', "a=b", "x"):
        try:
            parser = argparse.ArgumentParser(exit_on_error=False)
            parser._add_action(action)
            parser.parse_args([option, value])
        except Exception:
            continue
        return [option, value]
    raise AssertionError(f"no sample for {option}")


@pytest.mark.slow
def test_every_option_of_beams_arrives_as_beam_reads_it():
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    different = []
    for action in parser._actions:
        sample = _sample(action)
        inputs, options = split("photos", *sample)
        assert inputs == ["photos"]
        expected = PipelineOptions(sample).get_all_options(drop_default=True)
        if options.get_all_options(drop_default=True) != expected:
            different.append(sample)
    assert len(parser._actions) > 100
    assert different == []


@pytest.mark.parametrize(
    ("argument", "option", "near"),
    [
        ("--overwite", "--overwite", "--overwrite"),
        ("--long_side=64", "--long_side", "--long-side"),
        ("--runer", "--runer", "--runner"),
        ("--num_worker=3", "--num_worker", "--num_workers"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_known_one(argument, option, near):
    with pytest.raises(
        click.UsageError, match=f"^no such option {option}; did you mean {near}\\?$"
    ):
        split("photos", argument)


@pytest.mark.parametrize("argument", ["--qqqqqqqq", "-q"])
def test_an_option_like_no_other_is_refused_without_a_hint(argument):
    with pytest.raises(click.UsageError, match=f"^no such option {argument}$"):
        split("photos", argument, "value")


def test_options_are_not_abbreviated():
    with pytest.raises(click.UsageError, match="no such option --num_work"):
        split("--num_work", "3")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num_workers", "many"],
        ["--runner"],
        ["--streaming=yes"],
        ["--direct_running_mode", "nosuch"],
    ],
)
def test_a_bad_value_is_a_usage_error(arguments):
    option = arguments[0].split("=")[0]
    with pytest.raises(click.UsageError, match=option):
        split("photos", *arguments)


def test_options_are_passed_on_unchanged():
    arguments = ["one", "--runner", "DataflowRunner", "--project=p", "--streaming", "two"]
    assert split_arguments(arguments, OWN) == (
        ["one", "two"],
        ["--runner", "DataflowRunner", "--project=p", "--streaming"],
    )


def test_a_commands_own_options_are_known_by_name():
    @click.command()
    @click.argument("arguments", nargs=-1)
    @click.option("--output", "-o")
    @click.option("--storage-option", "storage_options")
    def command(**options):
        pass

    names = own_options(command)
    assert {"--output", "-o", "--storage-option"} <= set(names)
    with pytest.raises(click.UsageError, match="did you mean --storage-option"):
        split_arguments(["--storage-options", "a=b"], names)

"""Tests the comparison with peers: its counts and its table, not any speed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks/peers"


@pytest.fixture(scope="module")
def compare():
    """The script as a module; its neighbours are imported by their bare names."""
    sys.path.insert(0, str(PEERS))
    try:
        import compare

        yield compare
    finally:
        sys.path.remove(str(PEERS))
        for name in ("compare", "memory", "shared"):
            sys.modules.pop(name, None)


def test_every_peer_is_a_script_and_its_environment_one_that_make_sets_up(compare):
    made = re.search(r"^PEERS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert {peer.venv for peer in compare.PEERS} == {"", *made}
    assert all((PEERS / f"{name}.txt").is_file() for name in made)
    for peer in compare.PEERS:
        assert peer.is_job or (ROOT / peer.arguments[0]).is_file()
    assert len({peer.name for peer in compare.PEERS}) == len(compare.PEERS)


def test_agreement_is_counted_over_the_pixels_of_all_masks(compare, tmp_path):
    for out, values in {"ours": (0, 0), "theirs": (0, 1)}.items():
        (tmp_path / out / "masks").mkdir(parents=True)
        for index, (value, side) in enumerate(zip(values, (30, 10), strict=True)):
            mask = Image.fromarray(np.full((10, side), value, np.uint8))
            mask.save(tmp_path / out / f"masks/{index}.png")
    assert compare.agreement(tmp_path / "ours", tmp_path / "theirs") == 0.75


def test_the_table_says_why_a_peer_is_left_out(compare):
    peers = compare.PEERS[:2]
    runs = {peers[0].name: [compare.Run(rate, 3 * 10**9) for rate in (1.0, 4.0, 2.0)]}
    text = compare.table(peers, runs, {peers[0].name: 0.5}, {peers[1].name: "no such package"})
    measured, left_out = text.splitlines()[2:]
    assert "| 2.0 (1.0–4.0) | 3.00 GB | 50.00 % |" in measured
    assert "| left out |  |  no such package |".replace("  ", " ") in left_out.replace("  ", " ")


def test_a_peer_that_is_not_installed_fails_with_pips_last_word(compare, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "VENVS", tmp_path)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/install.log").write_text(
        "Collecting ray\nERROR: no ray for this Python\nHint: none\n"
    )
    peer = next(peer for peer in compare.PEERS if peer.venv == "ray")
    with pytest.raises(compare.Failed, match="not installed: ERROR: no ray for this Python"):
        compare.measured(peer, tmp_path, tmp_path / "out", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_counts_processes_below_processes(compare):
    hold = "import sys; held = b'x' * 200_000_000; sys.stdin.read()"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    command = [sys.executable, "-c", start]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as process,
        compare.memory.watched([os.getpid()], interval=0.05) as peak,
    ):
        wait_until(lambda: peak[0] > 200_000_000, "the memory is seen")
        process.stdin.close()
    assert process.returncode == 0


def test_a_commands_status_and_last_output_are_reported_with_its_memory(compare):
    command = [sys.executable, "-c", "print('done'); raise SystemExit(7)"]
    assert compare.memory.run(command, ROOT, {})[:2] == (7, "done\n")


def test_masks_of_peers_have_the_photos_upright_size(compare, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (1200, 800), "red").save(tmp_path / "turned.jpg", exif=exif)
    pixels, size = compare.shared.read(tmp_path / "turned.jpg")
    assert pixels.shape == (500, 333, 3)
    assert size == (1200, 800)
    compare.shared.write(np.ones(pixels.shape[:2]), size, "turned.jpg", str(tmp_path))
    with Image.open(tmp_path / "turned.png") as mask:
        assert (mask.mode, mask.size) == ("P", size[::-1])

"""The weights that servers read: whose run was killed leaves none behind for ever."""

import os
import signal
import subprocess
import sys

from didact.core.backends.server_sync import SERVED, owned, sweep

HOLD = """
import sys, time
from pathlib import Path
from didact.core.backends.server_sync import owned
folder = Path(sys.argv[1])
owned(folder)
(folder / "1.safetensors").write_text("weights")
print("ready", flush=True)
time.sleep(60)
"""


def test_only_folders_of_ended_processes_are_removed(tmp_path, caplog):
    mine, theirs, other = (tmp_path / name for name in (f"{SERVED}a", f"{SERVED}b", "didact-c"))
    handle = owned(mine)
    other.mkdir()
    command = [sys.executable, "-c", HOLD, str(theirs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        sweep(tmp_path)
        assert mine.is_dir() and (theirs / "1.safetensors").exists() and not caplog.records
        process.send_signal(signal.SIGKILL)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, other.name])
    assert f"{theirs}: weights of a run that was killed" in caplog.text
    os.close(handle)
    sweep(tmp_path)
    assert not mine.exists()

"""A study's runs as tasks, here and on a real SLURM of one node: the table is the same."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support import (
    EPOCH_ENDS,
    ROOT,
    SMALL,
    UNDRAWN,
    call,
    compile_cache,
    finish,
    logged,
    run,
    small_run,
    start,
    wait_until,
)

pytestmark = pytest.mark.timeout(1800)  # on a busy machine

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "setpriv")
RUNS = ["b2-seed=0", "b2-class_weights=none-seed=0", "b2-seed=1", "b2-class_weights=none-seed=1"]
STARTED = []  # commands
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
KillWait=120
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=here Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def study(data, output, *more, seeds="0,1", rate=3e-3):
    """The arguments of a study of two variants."""
    settings = SMALL | {"optimizer.learning_rate": rate, "train.epochs": 10}  # time to stop them
    return [
        "collapse",
        f"--data={data}",
        f"--output={output}",
        "--only=notebook,no class weights",
        f"--seeds={seeds}",
        *(f"--set={key}={value}" for key, value in settings.items()),
        *more,
    ]


def begin(arguments):
    STARTED.append(start("run", arguments, package="experiments", **UNDRAWN))
    return STARTED[-1]


@pytest.fixture(scope="module", autouse=True)
def nothing_goes_on():
    yield
    for process in STARTED:
        process.kill()


def table(outcome):
    """What a study printed of accuracies and differences; the hours after them vary."""
    assert outcome.status == 0, outcome.out + outcome.err
    text = outcome.out[outcome.out.index("| model") :]
    return text[: text.index("| variant")]


@pytest.fixture(scope="module")
def without_slurm(small_csv, tmp_path_factory):
    """The study, its first seed as tasks on this machine, the other one after another."""
    output = tmp_path_factory.mktemp("here")
    local = begin(study(small_csv, output, "--cluster=local", "--parallel=2", seeds="0"))
    return output, finish(local, 1500), finish(begin(study(small_csv, output)), 1500)


def test_tasks_on_this_machine_are_the_same_runs(without_slurm):
    output, local, plain = without_slurm
    assert local.status == 0, local.out + local.err
    assert "2 finished, 0 failed, 0 left" in local.out
    done = [line.partition("finished: ")[2] for line in plain.out.splitlines()]
    assert [line for line in done if line] == [f"{output}/runs/{run}/report" for run in RUNS[:2]]


def test_a_failed_task_is_named_with_its_log(small_csv, tmp_path):
    """It is refused, since the rate is none."""
    flags = ["--cluster=local", "--only=notebook"]
    outcome = finish(begin(study(small_csv, tmp_path, *flags, seeds="0", rate=-1)), 900)
    assert outcome.status == 1, outcome.out + outcome.err
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("failed: ")]
    name, _, log = line.partition(": see ")
    assert name == "failed: notebook, seed 0"
    with open(log) as text:
        assert "error: optimizer.learning_rate=-1" in text.read()
    assert outcome.err.splitlines()[-1].startswith("error: 1 of 1 runs failed")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--partition=p"], "need --cluster=slurm"),
        (["--cluster=local", "--sbatch=mem=1G"], "need --cluster=slurm"),
        (["--cluster=slurm", "--sbatch=mem"], "--sbatch=mem: write --sbatch"),
    ],
)
def test_the_door_refuses_in_one_line(flags, words, tmp_path):
    given = ["ema", "--data=x", f"--output={tmp_path / 'out'}", *flags]
    assert words in call("run", given, package="experiments").refusal()
    assert not (tmp_path / "out").exists()


def test_no_scheduler_that_could_name_the_others(small_csv, tmp_path):
    flags = [*small_run(small_csv, tmp_path / "run"), "--coordinator=auto"]
    assert "--coordinator=auto: no scheduler" in run("main", flags).refusal()


def free_ports(count):
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in free:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in free]


def answer(*command):
    """What a command of SLURM's prints; '' where it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def queue(form="%A"):
    """What is in it; SLURM is asked again where it does not answer."""
    command = ["squeue", "--noheader", f"--format={form}"]
    for _ in range(30):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        time.sleep(2)
    raise AssertionError(done.stderr)


def within(seconds, condition):
    """Whether `condition` comes true in time."""
    end = time.monotonic() + seconds
    while not (there := condition()) and time.monotonic() < end:
        time.sleep(0.5)
    return there


def daemons(folder):
    """Commands that start a SLURM of this machine alone, reached over loopback, from `folder`."""
    for part in ("munge", "state", "spool"):
        (folder / part).mkdir(mode=0o711)
    (folder / "munge/key").write_bytes(os.urandom(128))
    (folder / "munge/key").chmod(0o400)
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
    munge = [f"--{flag}={folder / 'munge' / name}" for flag, name in files.items()]
    config = folder / "slurm.conf"
    host, ports = socket.gethostname().partition(".")[0], free_ports(2)
    config.write_text(SLURM_CONF.format(host=host, ports=ports, folder=folder, cpus=os.cpu_count()))
    return (
        ["munged", "--foreground", "--force", *munge, f"--log-file={folder / 'munge/log'}"],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    )


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A real SLURM, of which nothing is left afterwards, nor where this process is killed."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {missing[0]}: `make slurm` installs SLURM as root on Debian")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons are started as root")
    folder, started = tmp_path_factory.mktemp("slurm"), []
    with pytest.MonkeyPatch.context() as patch, open(folder / "daemons.log", "w") as log:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            for daemon in daemons(folder):
                command = ["setpriv", "--pdeathsig=TERM", *daemon]
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
                time.sleep(1)
            if not within(60, lambda: "idle" in answer("sinfo", "--noheader", "--format=%T")):
                pytest.skip(f"SLURM does not start: {(folder / 'daemons.log').read_text()}")
            yield
        finally:
            for how in ([], ["--full", "--signal=KILL"]):  # the second where a task does not end
                answer("scancel", "--me", *how)
            within(60, lambda: not answer("squeue", "--noheader"))
            for process in reversed(started):
                process.terminate()
                process.wait(60)


def test_what_slurm_refuses_is_one_line(slurm, small_csv, tmp_path):
    arguments = study(small_csv, tmp_path, "--cluster=slurm", "--partition=nowhere")
    assert "SLURM refuses the tasks" in finish(begin(arguments)).refusal()


def test_stopped_tasks_go_on_and_the_table_is_the_same(slurm, small_csv, tmp_path, without_slurm):
    """One is queued again by hand, one queues itself when told of its time limit, one is cancelled.

    The command that waits is stopped too; given again, it finds its tasks in the queue.
    """
    arguments = study(small_csv, tmp_path, "--cluster=slurm", "--partition=here", "--parallel=2")
    command = begin(arguments)
    wait_until(lambda: "_" in queue("%i"), command, 900)
    wait_until(lambda: logged(tmp_path / "runs" / RUNS[0], "train"), command, 900)
    command.send_signal(signal.SIGTERM)
    finish(command)
    command = begin(arguments)
    array = queue().split()[0]
    told = ["timeout", "4", "scancel", "--signal=USR2"]  # it would repeat it for 95 s
    stops = (["scontrol", "requeue"], told, ["scancel"])
    for number, stop in enumerate(stops):
        wait_until(lambda n=number: logged(tmp_path / "runs" / RUNS[n], "train"), command, 900)
        answer(*stop, f"{array}_{number}")  # a signal is sent again while SLURM is busy
    outcome = finish(command, 1500)
    assert "4 in the queue, 0 to submit" in outcome.out
    assert (outcome.status, "failed: notebook, seed 1: see" in outcome.out) == (1, True), outcome

    outcome = finish(begin(arguments), 1500)
    assert "0 in the queue, 1 to submit" in outcome.out
    expected, _, plain = without_slurm
    assert table(outcome) == table(plain)
    files = [
        [f / "runs" / run / "report/predictions.npz" for run in RUNS] for f in (tmp_path, expected)
    ]
    mine, others = ([np.load(file)["probabilities"] for file in some] for some in files)
    np.testing.assert_array_equal(mine, others)
    assert len(np.unique(mine, axis=0)) == len(RUNS)
    logs = [log.read_text() for log in sorted((tmp_path / "cluster").glob("*_log.out"))]
    assert sum("stopped and saved" in log for log in logs) == 3
    assert sum("continuing after step" in log for log in logs) == 3
    assert not queue()


def test_the_parts_of_a_folder_are_tasks(slurm, tmp_path):
    """Every image is answered once, as without SLURM; a second time nothing is left to do."""
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"a photo {number}.png")
    whole = ("--crop=whole", "--detector=none")
    command = [sys.executable, "-m", "fer_jax.recognise", str(tmp_path), *whole]
    ours = os.environ | compile_cache() | {"SBATCH_PARTITION": "here"}

    def rows(*more):
        done = subprocess.run([*command, *more], cwd=ROOT, env=ours, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert within(600, lambda: not queue())
        lines = [line for file in tmp_path.glob("out/x*") for line in file.read_text().splitlines()]
        found = sorted((r["file"], r["label"], r["confidence"]) for r in map(json.loads, lines))
        return [row[:2] for row in found], np.array([row[2] for row in found])

    (tmp_path / "out").mkdir()
    answers, sure = rows(f"--output={tmp_path}/out/x.jsonl", "--shards=3")
    assert len(list(tmp_path.glob("out/x-*-of-3.jsonl"))) == 3
    assert len(answers) == 12
    again = rows(f"--output={tmp_path}/out/x.jsonl", "--shards=3")
    for file in tmp_path.glob("out/*"):
        file.unlink()
    for theirs, as_sure in (again, rows(f"--output={tmp_path}/out/x.jsonl")):
        assert theirs == answers
        assert as_sure == pytest.approx(sure, abs=1e-5)  # rows of other batches round otherwise


def test_two_tasks_find_each_other_and_are_one_run(slurm, finished_run, small_csv, tmp_path):
    """The finished run's last steps done over."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    shutil.rmtree(workdir / "report")
    shutil.rmtree(workdir / "checkpoints" / str(EPOCH_ENDS[-1]))
    command = ["srun", "--ntasks=2", "--overcommit", sys.executable, "-m", "fer_jax.main"]
    done = subprocess.run(
        [*command, *small_run(small_csv, workdir), "--coordinator=auto"],
        cwd=ROOT,
        env=os.environ | compile_cache() | UNDRAWN,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("in 2 processes") == done.stdout.count("continuing after step") == 1
    both = [json.loads((f / "report/report.json").read_text()) for f in (workdir, finished_run)]
    for name in ("n", "accuracy", "checkpoint_step", "confusion_matrix", "data_fingerprint"):
        assert both[0][name] == both[1][name], name
    mine, one = (
        np.load(f / "report/predictions.npz")["probabilities"] for f in (workdir, finished_run)
    )
    np.testing.assert_allclose(mine, one, atol=1e-3)

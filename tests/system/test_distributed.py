"""How many processes train: what a scheduler or launcher started must be what the config says."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from harness import RUN

from fastconv.config import job
from fastconv.config.schema import Config
from fastconv.system import distributed, rank_store
from fastconv.system.cluster import first_node, launch, launched_nodes, tasks_on_nodes, world_size
from fastconv.system.distributed import agent, check_world, is_restarted, rank
from fastconv.system.errors import InputError
from fastconv.system.rank_store import begin_job, connect, store, wait_for

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1"}


def srun(tasks, on_nodes, **more):
    """The variables of the first task of a step of a batch job, as SLURM 22.05 sets them."""
    nodes = len(tasks_on_nodes(on_nodes))
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_TASKS_PER_NODE": on_nodes,
        "SLURM_STEP_NODELIST": "node[0-1]" if nodes > 1 else "node0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        **more,
    }


def open_mpi(processes, here, rank=0, local_rank=0, **more):
    """The variables of a process as Open MPI 4.1 sets them."""
    return {
        "OMPI_COMM_WORLD_SIZE": str(processes),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(here),
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(local_rank),
        "PMIX_NAMESPACE": "331939841",
        **more,
    }


def hydra(processes, here, rank=0, local_rank=0, **more):
    """The variables of a process as MPICH 4.0 sets them."""
    return {
        "PMI_SIZE": str(processes),
        "MPI_LOCALNRANKS": str(here),
        "PMI_RANK": str(rank),
        "MPI_LOCALRANKID": str(local_rank),
        **more,
    }


@pytest.fixture
def started(monkeypatch):
    """Sets the variables that a launcher sets, and no others."""
    for variable in list(os.environ):
        if variable.startswith(
            ("SLURM_", "OMPI_", "PMI", "MPI_", "JSM_", "TORCHELASTIC_", "FASTCONV_FIRST", "MASTER_")
        ):
            monkeypatch.delenv(variable)
    for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"):
        # Set first, so that what a call sets is taken back.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    # A launcher has set them, and not a shell.
    monkeypatch.setattr(distributed, "kept_variables", lambda found: [])
    # Hydra's proxy starts each process. Where the first process of a container runs the tests, nothing started that.
    monkeypatch.setattr("fastconv.system.cluster.parent_of", lambda process: 4242)

    def set_variables(variables):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)

    return set_variables


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({}, 1),
        ({}, 2),  # Lightning starts the other
        (srun(1, "1"), 1),
        (srun(2, "2"), 2),
        (srun(4, "2(x2)", SLURM_PROCID="3", SLURM_LOCALID="1", SLURM_NODEID="1"), 2),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, 1),  # the one process of a batch script
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"}, 2),
        (open_mpi(1, 1), 1),
        (open_mpi(1, 1), 2),  # Lightning starts the other
        (open_mpi(2, 2, rank=1, local_rank=1), 2),
        (open_mpi(4, 2, rank=2, MASTER_ADDR="node0"), 2),
        (hydra(1, 1), 1),
        (hydra(2, 2), 2),
        (hydra(4, 2, MASTER_ADDR="node0", MASTER_PORT="29500"), 2),
        ({**srun(2, "2"), "PMI_SIZE": "2", "PMI_RANK": "0"}, 2),  # srun --mpi=pmi2
        ({**TORCHRUN, "WORLD_SIZE": "2", "RANK": "1"}, 2),
        ({**TORCHRUN, "WORLD_SIZE": "2", "SLURM_NTASKS": "1"}, 2),  # torchrun in a task of SLURM's
        ({**srun(2, "1(x2)"), **TORCHRUN, "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}, 2),  # one in each of two
        ({**srun(2, "1(x2)"), **TORCHRUN, "WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}, 2),  # --nnodes=1:2
        ({"FASTCONV_FIRST_RANK": "{}", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 2),  # what Lightning starts
    ],
)
def test_processes_that_are_as_many_as_the_config_says(started, variables, devices):
    started(variables)
    check_world(devices)


@pytest.mark.parametrize(
    ("variables", "devices", "says"),
    [
        ({"SLURM_NTASKS": "1"}, 2, "trainer.devices=2 needs 2 tasks of SLURM, this command has one: use sbatch"),
        ({"SLURM_NTASKS": "2"}, 2, "needs a process in each of the job's 2 tasks: write srun before the command"),
        (srun(1, "1"), 2, "trainer.devices=2 needs 2 tasks of SLURM, this command has one"),
        (srun(2, "2"), 1, "srun started 2 processes, but trainer.devices=1: make them the same"),
        (srun(4, "2(x2)"), 1, "srun started 4 processes, 2 on each of 2 nodes, but trainer.devices=1"),
        (srun(3, "2,1"), 2, "srun started 3 processes, 1 and 2 on a node, but a run needs as many on each"),
        (
            open_mpi(2, 2),
            1,
            "mpirun started 2 processes, but trainer.devices=1: make them the same, with trainer.devices=2"
            " or mpirun -n 1",
        ),
        (
            open_mpi(4, 2),
            1,
            "mpirun started 4 processes, 2 on this node, but trainer.devices=1: make them the same, with"
            " trainer.devices=2 or mpirun -N 1",
        ),
        (hydra(4, 2), 1, "with trainer.devices=2 or mpirun -ppn 1"),
        (
            open_mpi(3, 2),
            2,
            "mpirun started 3 processes, 2 on this node, but a run needs as many on each: use mpirun -N 2",
        ),
        (
            open_mpi(4, 2),
            2,
            "4 processes, which cannot find each other without MASTER_ADDR: use mpirun -x MASTER_ADDR=FIRST",
        ),
        (
            hydra(4, 2),
            2,
            "without MASTER_ADDR and MASTER_PORT: use mpirun -genv MASTER_ADDR FIRST_NODE -genv MASTER_PORT F",
        ),
        (
            hydra(4, 2, MASTER_ADDR="node0"),
            2,
            "cannot find each other without MASTER_PORT: use mpirun -genv MASTER_PORT",
        ),
        ({**open_mpi(1, 1), "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, 2, "trainer.devices=2 needs 2 tasks of SLURM"),
        ({"PMI_SIZE": "4"}, 1, "a launcher started 4 processes (PMI_SIZE)"),
        ({"RANK": "1"}, 1, "RANK or LOCAL_RANK is 1 here, but no launcher has started this process with others"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 1, "a launcher started 2 processes (WORLD_SIZE)"),
        ({**TORCHRUN, "WORLD_SIZE": "2"}, 1, "torchrun started 2 processes, but trainer.devices=1"),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, 2, "torchrun started 1 process, but trainer.devices=2"),
        ({**srun(2, "2"), **TORCHRUN, "WORLD_SIZE": "2"}, 2, "srun started torchrun 2 times, and each would train the"),
        ({**open_mpi(2, 2), **TORCHRUN, "WORLD_SIZE": "2"}, 2, "mpirun started torchrun 2 times, and each would train"),
        ({**hydra(2, 2), **TORCHRUN, "WORLD_SIZE": "2"}, 2, "or torchrun --nnodes=2 --rdzv-backend=c10d"),
    ],
)
def test_processes_that_are_not_are_refused(started, variables, devices, says):
    started(variables)
    with pytest.raises(InputError) as error:
        check_world(devices)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("variables", "nodes", "says"),
    [
        ({}, 2, "trainer.nodes=2 needs a launcher that starts the processes on each node"),
        ({"SLURM_NTASKS": "2"}, 2, "trainer.devices=1 on trainer.nodes=2 needs a process in each of the job's 2 tasks"),
        (srun(2, "2"), 2, "srun started 2 processes on 1 node, but trainer.nodes=2: make them the same"),
        (srun(2, "1(x2)"), 1, "srun started 2 processes on 2 nodes, but trainer.nodes=1: make them the same"),
        ({**TORCHRUN, "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}, 1, "torchrun started 2 processes on 2 nodes, but"),
        (open_mpi(2, 2), 2, "mpirun started 2 processes on 1 node, but trainer.nodes=2: make them the same"),
        (hydra(2, 1), 1, "mpirun started 2 processes on 2 nodes, but trainer.nodes=1: make them the same"),
    ],
)
def test_nodes_that_are_not_are_refused(started, variables, nodes, says):
    started(variables)
    with pytest.raises(InputError, match=says.replace("(", "[(]")):
        check_world(1, nodes)


def test_without_a_number_the_nodes_are_those_of_the_launcher(started):
    assert (launched_nodes(), world_size(2, None), world_size(2, 3)) == (1, 2, 6)
    started(srun(4, "2(x2)"))
    check_world(2)
    assert (launched_nodes(), world_size(2, None)) == (2, 4)


def test_tasks_of_srun_find_each_other_as_those_of_torchrun_do(started):
    started(srun(4, "2(x2)", SLURM_JOB_ID="12345", SLURM_PROCID="3", SLURM_LOCALID="1", SLURM_NODEID="1"))
    check_world(2)
    assert rank() == 3
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR")
    assert [os.environ[name] for name in names] == ["3", "4", "1", "2", "1", "2", "node0"]
    port = os.environ.pop("MASTER_PORT")
    assert 1024 < int(port) < 32768
    started({"SLURM_STEP_ID": "1"})  # another step on the same node
    check_world(2)
    assert os.environ["MASTER_PORT"] != port


def test_jobs_that_share_a_node_have_ports_of_their_own(started):
    ports = set()
    for number in range(100, 140):
        for step in range(10):
            started(srun(2, "2", SLURM_JOB_ID=str(number), SLURM_STEP_ID=str(step)))
            check_world(2)
            ports.add(os.environ.pop("MASTER_PORT"))
    assert len(ports) == 400


TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR")


@pytest.mark.parametrize("launcher", [open_mpi, hydra])
@pytest.mark.parametrize(
    ("rank", "local_rank", "node"),
    [(0, 0, 0), (1, 1, 0), (3, 0, 1), (5, 2, 1), (3, 1, 1), (4, 2, 0)],
    ids=["first", "its neighbour", "node by node", "the last", "in turn", "in turn on the first"],
)
def test_processes_of_mpirun_find_each_other_as_those_of_torchrun_do(started, launcher, rank, local_rank, node):
    """Three on each of two nodes. `--map-by node` numbers them in turn."""
    started(launcher(6, 3, rank, local_rank, MASTER_ADDR="10.0.0.1", MASTER_PORT="4000"))
    check_world(3)
    assert [os.environ[name] for name in TORCH] == [str(rank), "6", str(local_rank), "3", str(node), "2", "10.0.0.1"]
    assert os.environ["MASTER_PORT"] == "4000"


def test_processes_that_mpirun_started_within_a_step_of_slurm_are_those_of_mpirun(started):
    """It starts what starts them on the other nodes by srun, one task a node."""
    started({**srun(2, "1(x2)", SLURM_PROCID="1", SLURM_NODEID="1"), **open_mpi(6, 2, 5, 1, MASTER_ADDR="node0")})
    check_world(2)
    assert (rank(), launched_nodes(), os.environ["GROUP_RANK"]) == (5, 3, "2")


@pytest.mark.parametrize(
    ("variables", "found"),
    [(open_mpi(0, 0), None), (open_mpi(2, 0, 1, 1), (2,)), (open_mpi(2, 4, 1, 3), (2,)), (hydra(2, 0), (2,))],
)
def test_numbers_of_mpirun_that_contradict_each_other_are_of_one_node(started, variables, found):
    """A shell may have kept them, or a script set some."""
    started(variables)
    by = launch()
    assert (by and by.on_nodes) == found


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            srun(2, "1(x2)", SLURM_NODEID="7"),
            "the variables of srun contradict each other (SLURM_PROCID=0, SLURM_STEP_",
        ),
        (
            srun(2, "1(x2)", SLURM_NODEID="7", SLURM_PROCID="1"),
            "SLURM_NODEID=7, SLURM_STEP_TASKS_PER_NODE=1(x2)): unset",
        ),
        (srun(1, "1", SLURM_STEP_NUM_TASKS="2", SLURM_NODEID="1"), "contradict each other"),
        (srun(2, "2", SLURM_PROCID="2"), "SLURM_PROCID=2, SLURM_STEP_NUM_TASKS=2"),
        (srun(2, "2", SLURM_PROCID="1", SLURM_LOCALID="2"), "SLURM_LOCALID=2, SLURM_NODEID=0"),
        (
            open_mpi(2, 2, rank=5, local_rank=1),
            "mpirun contradict each other (OMPI_COMM_WORLD_RANK=5, OMPI_COMM_WORLD_",
        ),
        (hydra(2, 2, rank=2), "(PMI_RANK=2, PMI_SIZE=2, MPI_LOCALRANKID=0, MPI_LOCALNRANKS=2): unset them if a shell"),
        (
            {**TORCHRUN, "WORLD_SIZE": "2", "RANK": "2"},
            "the variables of torchrun contradict each other (RANK=2, WORLD",
        ),
        ({**TORCHRUN, "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "0", "GROUP_RANK": "1"}, "start the command by torchrun"),
    ],
)
@pytest.mark.parametrize("devices", [1, 2])
def test_numbers_that_place_a_process_nowhere_are_one_line(started, monkeypatch, variables, says, devices):
    """Of whichever process: the first one, if it is there, may see nothing wrong."""
    monkeypatch.setattr(distributed, "WAIT_FOR_LINE", 0.0)
    started(variables)
    with pytest.raises(InputError) as error:
        check_world(devices)
    assert says in str(error.value)


def test_jobs_of_open_mpi_on_a_node_have_ports_of_their_own(started):
    ports = []
    for job_name in ("331939841", "331874305", "331939842", "prterun-node0-17@1"):
        for local_rank in range(2):
            started(open_mpi(2, 2, local_rank, local_rank, PMIX_NAMESPACE=job_name))
            check_world(2)
            assert os.environ["MASTER_ADDR"] == "127.0.0.1"
            assert 1024 < int(os.environ["MASTER_PORT"]) < 32768
            ports.append(os.environ.pop("MASTER_PORT"))
    assert ports[::2] == ports[1::2]
    assert len(set(ports)) == 4


PORT = (
    "import os; from fastconv.system.distributed import check_world; check_world(2); print(os.environ['MASTER_PORT'])"
)
PROXY = "import subprocess, sys; [subprocess.run(['sh', '-c', each], start_new_session=True) for each in sys.argv[1:]]"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_processes_of_one_hydra_have_its_port(started):
    """Hydra starts each process in a session of its own; a shell script may stand between."""
    started(hydra(2, 2))
    show = f'{sys.executable} -c "{PORT}"'
    command = [sys.executable, "-c", PROXY, f"exec {show}", f"{show}; true"]
    said = [subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout for _ in range(2)]
    (first, second), (third, fourth) = map(str.split, said)
    assert first == second != third == fourth


def test_without_its_job_hydra_needs_a_port(started, monkeypatch):
    monkeypatch.setattr("fastconv.system.cluster.parent_of", lambda process: 0)  # elsewhere than on Linux
    started(hydra(2, 2))
    with pytest.raises(InputError, match="cannot find each other without MASTER_PORT: use mpirun -genv MASTER_PORT"):
        check_world(2)


def test_a_node_with_another_number_of_processes_speaks_where_the_first_one_sees_nothing_wrong(started, monkeypatch):
    """One, one and two on three nodes: to the first process these are four nodes of one each."""
    monkeypatch.setattr(distributed, "WAIT_FOR_LINE", 0.0)
    started(open_mpi(4, 1, MASTER_ADDR="node0"))
    check_world(1)
    started(open_mpi(4, 2, rank=2, local_rank=0))
    with pytest.raises(InputError, match="mpirun started 4 processes, 2 on this node, but"):
        check_world(1)
    started(open_mpi(4, 2, rank=3, local_rank=1))
    with pytest.raises(SystemExit):
        check_world(1)


def test_another_torchrun_of_the_same_number_is_another(started, monkeypatch):
    assert agent() == ""
    started({**TORCHRUN, "WORLD_SIZE": "1"})
    first = agent()
    assert first == agent()
    monkeypatch.setattr(distributed, "start_ticks", lambda process: 1)
    assert agent() not in ("", first)


@pytest.mark.parametrize(("variables", "begins"), [({}, []), (srun(2, "1(x2)"), [3])], ids=["alone", "two machines"])
def test_ranks_forget_what_they_told_each_other_for_the_job_before(started, monkeypatch, variables, begins):
    """Of one device on each machine too: a job would else get the folder of the one before."""
    started(variables)
    begun = []
    monkeypatch.setattr(job, "begin_job", begun.append)
    monkeypatch.setattr(job.HydraConfig, "get", lambda: SimpleNamespace(job=SimpleNamespace(num=3)))
    monkeypatch.setattr(job, "task_overrides", list)
    with job.Job("train", lambda config: None, full_error=False)._ranks(Config()):
        assert begun == begins


def test_the_store_of_a_process_stays_while_its_jobs_change(started, monkeypatch):
    """Another process may come to the next job first: it must not connect to a store that is about to end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    monkeypatch.setattr(rank_store, "_job", "")
    rank_store._connection.cache_clear()
    try:
        store().set("run", "of the first job")
        connection = rank_store._connection()
        assert connect().get("run") == wait_for("run") == b"of the first job"
        begin_job(1)
        assert rank_store._connection() is connection
        assert not store().check(["run"])
        connect().set("run", "of the second")
        assert wait_for("run") == b"of the second"
    finally:
        rank_store._connection.cache_clear()


def test_a_given_address_stays(started):
    started(srun(2, "2", MASTER_ADDR="10.0.0.1", MASTER_PORT="4000"))
    check_world(2)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("10.0.0.1", "4000")


def test_only_the_first_task_says_what_is_wrong(started, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "WAIT_FOR_LINE", 0.0)
    started(srun(2, "2", SLURM_PROCID="1", SLURM_LOCALID="1"))
    with pytest.raises(SystemExit) as end:
        check_world(1)
    assert end.value.code == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "first"), [("gpu[07-09,11],cpu1", "gpu07"), ("node3", "node3"), ("a,b", "a"), ("r[1,3]n2", "r1n2")]
)
def test_the_first_of_the_nodes(names, first):
    assert first_node(names) == first


@pytest.mark.parametrize(("text", "tasks"), [("2(x3),1", (2, 2, 2, 1)), ("4", (4,)), ("1,2(x2)", (1, 2, 2)), ("", ())])
def test_tasks_on_each_node(text, tasks):
    assert tasks_on_nodes(text) == tasks


def test_only_what_torchrun_starts_anew_is_restarted(started):
    started({"TORCHELASTIC_RESTART_COUNT": "2"})  # left by something else
    assert not is_restarted()
    started({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "0"})
    assert not is_restarted()
    started({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert is_restarted()


@pytest.mark.parametrize("wrong", ["optimizer.max_lr=-1", "dataset=digit"])
@pytest.mark.parametrize("number", [0, 1])
def test_the_first_rank_is_given_time_to_refuse_settings(command, started, monkeypatch, number, wrong):
    """Before the ranks meet: torchrun then ends the others before they say the same."""
    started({**TORCHRUN, "WORLD_SIZE": "2", "RANK": str(number), "LOCAL_RANK": str(number)})
    monkeypatch.setattr("fastconv.system.heartbeat.connect", lambda: pytest.fail("the ranks meet"))
    waited = []
    monkeypatch.setattr(distributed.time, "sleep", waited.append)
    ended = command("train", "dataset=digits", "trainer=ddp", wrong)
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert waited == [distributed.WAIT_FOR_LINE] * number


def test_a_rank_without_the_users_own_code_says_so_to_the_others(command, started, monkeypatch):
    """It may be the only one: srun ends the others only if they hear of it, so the ranks meet first."""
    started({**TORCHRUN, "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"})

    def meet():
        raise InputError("the ranks meet")

    monkeypatch.setattr("fastconv.system.heartbeat.connect", meet)
    monkeypatch.setattr(distributed, "WAIT_FOR_LINE", 0.0)
    ended = command("train", "dataset=digits", "trainer=ddp", "model._target_=missing.Network")
    assert ended.err == "fastconv: the ranks meet\n"


def test_a_command_is_refused_before_anything_is_written(command, tmp_path, started):
    started({"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"})
    ended = command("train", *RUN, "trainer.devices=2", "batch_size=64", "micro_batch_size=32")
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert "write srun before the command" in ended.err
    assert not list(tmp_path.iterdir())

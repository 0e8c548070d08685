"""A real SLURM on this machine: controller, one node, munge, and accounting if it is asked for.

    python -m tests.slurm.cluster start [--accounting] [--install]
    python -m tests.slurm.cluster stop
    python -m tests.slurm.cluster status

For throw-away machines (a container, a CI runner) and root: it needs Debian's packages, which `--install` installs, no
systemd and no cgroups. All daemons listen on the loopback address. The configuration must stand in /etc/slurm, because
the executor plugin starts job steps without SLURM's environment variables; a machine that has another configuration
there is left alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ETC = Path("/etc/slurm")
STATE = Path("/var/tmp/s2pg-slurm")
MARK = "# written by tests/slurm/cluster.py"
PACKAGES = ["slurm-wlm", "munge"]
DATABASE = ["slurmdbd", "mariadb-server"]
DAEMONS = ["slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"]  # in the order in which they stop

CONFIGURATION = """\
{mark}
ClusterName=s2pg
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmdSpoolDir={state}/spool
StateSaveLocation={state}/controller
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
KillWait={kill_wait}
MinJobAge=600
OverTimeLimit=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
{accounting}
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} Gres=gpu:1
PartitionName=main Nodes=ALL Default=YES MaxTime=120 DefaultTime=10 State=UP
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=6819
"""
DATABASE_DAEMON = """\
{mark}
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=6819
SlurmUser=root
LogFile={state}/slurmdbd.log
PidFile={state}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""


class Refused(RuntimeError):
    """SLURM cannot be started here; the message says why and what would help."""


def reason_against(install: bool = False) -> str | None:
    """Why a SLURM cannot be started on this machine; None if it can."""
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons: use a container or a CI runner"
    configuration = ETC / "slurm.conf"
    if configuration.exists() and MARK not in configuration.read_text():
        return f"{configuration} belongs to another SLURM, which is left alone"
    if missing := [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name)]:
        if not install:
            return f"{', '.join(missing)} not installed: `python -m tests.slurm.cluster start --install`"
        if not shutil.which("apt-get"):
            return f"{', '.join(missing)} not installed, and there is no apt-get to install them with"
    return None


def run(*words: str, **options) -> str:
    """Standard output of a command; Refused with its complaint if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, **options)
    if done.returncode:
        raise Refused(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def install(packages: list[str]) -> None:
    """Debian packages, without starting their services."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run("apt-get", "update", "-qq", env=environment)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages, env=environment)


def wait(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Return once `condition` holds; Refused after that many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Refused(f"{what}: not within {seconds:.0f} s; see the logs in {STATE}")
        time.sleep(0.2)


def process(daemon: str) -> int | None:
    """Process id of a daemon that this script started and that is alive."""
    try:
        pid = int((STATE / f"{daemon}.pid").read_text())
        return pid if Path(f"/proc/{pid}/comm").read_text().startswith(daemon[:12]) else None
    except (OSError, ValueError):
        return None


def works(*words: str) -> bool:
    """Whether a command exits with 0."""
    return subprocess.run(words, capture_output=True).returncode == 0


def start(accounting: bool = False, install_packages: bool = False, kill_wait: int = 5) -> None:
    """Start everything; does nothing where it runs already. Refused where that is impossible."""
    if reason := reason_against(install_packages):
        raise Refused(reason)
    wanted = [*PACKAGES, *(DATABASE if accounting else [])]
    if install_packages and not all(works("dpkg", "-s", name) for name in wanted):
        install(wanted)
    if process("slurmctld") and process("slurmd"):
        return
    STATE.mkdir(parents=True, exist_ok=True)
    for name in ("spool", "controller"):
        (STATE / name).mkdir(exist_ok=True)
    configure(accounting, kill_wait)
    start_munge()
    if accounting:
        start_accounting()
    start_controller()
    start_node()


def configure(accounting: bool, kill_wait: int) -> None:
    """Write SLURM's configuration."""
    cores, memory = os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    values = {"mark": MARK, "state": STATE, "host": socket.gethostname(), "cores": max(8, cores)}
    values |= {"memory": memory, "kill_wait": kill_wait, "accounting": ACCOUNTING if accounting else ""}
    ETC.mkdir(exist_ok=True)
    (ETC / "slurm.conf").write_text(CONFIGURATION.format(**values))
    (ETC / "gres.conf").write_text(f"{MARK}\nNodeName=node1 Name=gpu Count=1 File=/dev/null\n")
    if accounting:
        file = ETC / "slurmdbd.conf"
        file.touch(mode=0o600)
        file.chmod(0o600)
        file.write_text(DATABASE_DAEMON.format(**values))


def start_munge() -> None:
    """Authentication between the daemons; one that runs already is used."""
    if works("sh", "-c", "munge -n | unmunge"):
        return
    for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, "munge", "munge")
    run("runuser", "-u", "munge", "--", "munged", "--force")
    shutil.copy("/run/munge/munged.pid", STATE / "munged.pid")
    wait(lambda: works("sh", "-c", "munge -n | unmunge"), "munge")


def start_accounting() -> None:
    """A database of its own, reached through a socket, and slurmdbd."""
    data, server = STATE / "database", STATE / "mariadb.sock"
    if not data.exists():
        run("mariadb-install-db", "--user=root", f"--datadir={data}", "--auth-root-authentication-method=normal")
    words = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={server}", "--skip-networking"]
    subprocess.Popen([*words, f"--pid-file={STATE}/mariadbd.pid"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                     start_new_session=True)  # fmt: skip
    wait(lambda: works("mariadb", "--no-defaults", f"--socket={server}", "-e", "select 1"), "mariadb")
    run("slurmdbd", env=os.environ | {"MYSQL_UNIX_PORT": str(server)})
    wait(lambda: works("sacctmgr", "-n", "show", "cluster"), "slurmdbd")
    subprocess.run(["sacctmgr", "-i", "add", "cluster", "s2pg"], capture_output=True)
    subprocess.run(["sacctmgr", "-i", "add", "account", "research"], capture_output=True)
    subprocess.run(["sacctmgr", "-i", "add", "user", "root", "account=research"], capture_output=True)


def start_controller() -> None:
    """The daemon that knows the queue."""
    run("slurmctld")
    wait(lambda: works("scontrol", "ping") and works("squeue"), "slurmctld")


def start_node(rebooted: bool = False) -> None:
    """The daemon that runs jobs. After `rebooted` the controller knows that nothing runs there any more."""
    run("slurmd", "-N", "node1", *(["-b"] if rebooted else []))
    wait(lambda: node_state() in ("idle", "mix", "alloc"), "the node")


def node_state() -> str:
    """As `sinfo` calls it."""
    done = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True)
    return done.stdout.strip()


def stop_daemon(daemon: str, how: signal.Signals = signal.SIGTERM) -> None:
    """End a daemon that this script started and wait until it is gone."""
    if pid := process(daemon):
        os.kill(pid, how)
        wait(lambda: not process(daemon), f"the end of {daemon}", 90)


def stop() -> None:
    """Cancel all jobs, end all daemons, remove the configuration."""
    if process("slurmctld"):
        subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=30)
        wait(lambda: not run("squeue", "-h").strip(), "the end of all jobs")
    for daemon in DAEMONS:
        stop_daemon(daemon)
    for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
        if (ETC / name).exists() and MARK in (ETC / name).read_text():
            (ETC / name).unlink()
    shutil.rmtree(STATE, ignore_errors=True)


def has_accounting() -> bool:
    """Whether the running SLURM has an accounting database."""
    return "accounting_storage/slurmdbd" in run("scontrol", "show", "config")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["start", "stop", "status"])
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
    parser.add_argument("--install", action="store_true", help="install Debian's packages where they are missing")
    args = parser.parse_args()
    try:
        if args.what == "start":
            start(args.accounting, args.install)
        elif args.what == "stop":
            stop()
        print("  ".join(f"{daemon} {process(daemon) or 'down'}" for daemon in reversed(DAEMONS)))
    except Refused as error:
        print(f"no SLURM here: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

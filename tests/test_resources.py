"""The memory and cores that a process may use: limits of the machine, of cgroups and of `ulimit`."""

import json
import os
import subprocess
import sys

import pytest

from saematch.resources import available_memory, processors

pytestmark = pytest.mark.through_passes

GB = 2**30
UNLIMITED = 9223372036854771712  # what version 1 says for none


def run(code, *arguments):
    """Return the JSON that a new process prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tree(root, files, free=64):
    """Make the file system of a machine with `free` GB of memory and the given files."""
    for name, content in {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:  {free * 2**20} kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def version_1(root, path, levels, mount_root="/"):
    """Return cgroups as SLURM makes them: one hierarchy per controller."""
    mounts = [
        f"34 25 0:30 {mount_root} /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory",
        f"35 25 0:31 {mount_root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct",
        "36 25 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd",
    ]
    own = f"9:name=systemd:/elsewhere\n5:cpu,cpuacct:{path}\n4:memory:{path}"
    return tree(root, {"proc/self/mountinfo": "\n".join(mounts), "proc/self/cgroup": own, **levels})


def version_2(root, path, levels, mounted="/sys/fs/cgroup", mount_root="/"):
    """Return cgroups as systemd and Kubernetes make them: one hierarchy for all controllers."""
    mount = f"30 23 0:26 {mount_root} {mounted} rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate"
    return tree(root, {"proc/self/mountinfo": mount, "proc/self/cgroup": f"0::{path}", **levels})


def memory_1(folder, limit, used=0, stat=""):
    there = f"sys/fs/cgroup/memory{folder}"
    return {
        f"{there}/memory.limit_in_bytes": limit,
        f"{there}/memory.usage_in_bytes": used,
        f"{there}/memory.stat": stat,
    }


def memory_2(folder, limit, used=0, stat="", high="max"):
    there = f"sys/fs/cgroup{folder}"
    files = {"memory.max": limit, "memory.current": used, "memory.high": high, "memory.stat": stat}
    return {f"{there}/{name}": content for name, content in files.items()}


def test_without_limits_the_machine_counts(tmp_path):
    root = version_2(tmp_path, "/user.slice/session", memory_2("/user.slice/session", "max", 3 * GB))
    assert available_memory(root) == 64 * GB


def test_a_machine_that_does_not_overcommit_has_what_is_not_committed(tmp_path):
    meminfo = f"MemAvailable: {9 * 2**20} kB\nCommitLimit:  {8 * 2**20} kB\nCommitted_AS:  {6 * 2**20} kB\n"
    root = tree(tmp_path, {"proc/meminfo": meminfo, "proc/sys/vm/overcommit_memory": "2"})
    assert available_memory(root) == 2 * GB
    (root / "proc/sys/vm/overcommit_memory").write_text("0\n")
    assert available_memory(root) == 9 * GB


@pytest.mark.parametrize("tight", ["", "/slurm", "/slurm/uid_1000", "/slurm/uid_1000/job_7/step_0/task_0"])
def test_the_limit_of_any_level_counts_in_version_1(tmp_path, tight):
    path = "/slurm/uid_1000/job_7/step_0/task_0"
    levels = {}
    for depth in range(len(path.split("/"))):
        folder = "/".join(path.split("/")[: depth + 1])
        levels |= memory_1(folder, 5 * GB if folder == tight else UNLIMITED, 2 * GB)
    assert available_memory(version_1(tmp_path, path, levels)) == 3 * GB


@pytest.mark.parametrize("tight", ["/kubepods.slice", "/kubepods.slice/pod1", "/kubepods.slice/pod1/container"])
def test_the_limit_of_any_level_counts_in_version_2(tmp_path, tight):
    path = "/kubepods.slice/pod1/container"
    levels = {}
    for depth in range(1, len(path.split("/"))):
        folder = "/".join(path.split("/")[: depth + 1])
        levels |= memory_2(folder, 4 * GB if folder == tight else "max", GB)
    assert available_memory(version_2(tmp_path, path, levels)) == 3 * GB


def test_the_soft_limit_of_version_2_counts(tmp_path):
    root = version_2(tmp_path, "/job", memory_2("/job", 8 * GB, GB, high=2 * GB))
    assert available_memory(root) == GB


def test_cached_files_are_not_used_memory(tmp_path):
    stat = f"anon {GB}\ninactive_file {2 * GB}\nactive_file {GB}\nslab_reclaimable 0"
    assert available_memory(version_2(tmp_path / "2", "/job", memory_2("/job", 8 * GB, 5 * GB, stat))) == 6 * GB
    # Version 1 counts the children of a cgroup in `total_` alone.
    stat = f"inactive_file 0\nactive_file 0\ntotal_inactive_file {2 * GB}\ntotal_active_file {GB}"
    assert available_memory(version_1(tmp_path / "1", "/job", memory_1("/job", 8 * GB, 5 * GB, stat))) == 6 * GB


def test_a_cgroup_that_is_full_leaves_nothing(tmp_path):
    assert available_memory(version_2(tmp_path, "/job", memory_2("/job", GB, 2 * GB))) == 0


def test_a_container_sees_its_own_cgroup_as_the_root(tmp_path):
    limits = memory_1("", 2 * GB, GB)
    assert available_memory(version_1(tmp_path / "1", "/docker/0a1b", limits, mount_root="/docker/0a1b")) == GB
    nested = memory_1("", UNLIMITED) | memory_1("/inner", 2 * GB, GB)
    assert available_memory(version_1(tmp_path / "2", "/docker/0a1b/inner", nested, mount_root="/docker/0a1b")) == GB
    outside = memory_2("", 2 * GB, GB)  # a process that was moved into another namespace
    assert available_memory(version_2(tmp_path / "3", "/../other", outside)) == GB


def test_cgroups_may_be_mounted_anywhere(tmp_path):
    files = {"mnt/my groups/job/memory.max": GB, "mnt/my groups/job/memory.current": 0}
    assert available_memory(version_2(tmp_path, "/job", files, mounted="/mnt/my\\040groups")) == GB


@pytest.mark.parametrize("content", ["", "nonsense", "-1", "9" * 40])
def test_files_that_say_nothing_limit_nothing(tmp_path, content):
    root = version_2(tmp_path, "/job", {**memory_2("/job", content, 0), "sys/fs/cgroup/job/cpu.max": content})
    assert available_memory(root) == 64 * GB
    assert processors(root) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("period", [100_000, 20_000])
@pytest.mark.parametrize("level", ["/job", "/job/task"])
def test_a_quota_of_either_version_limits_processors(tmp_path, level, period):
    quota = f"sys/fs/cgroup/cpu,cpuacct{level}"
    files = {f"{quota}/cpu.cfs_quota_us": period // 2, f"{quota}/cpu.cfs_period_us": period}
    assert processors(version_1(tmp_path / "1", "/job/task", files)) == 1
    files = {f"sys/fs/cgroup{level}/cpu.max": f"{period} {period}"}
    assert processors(version_2(tmp_path / "2", "/job/task", files)) == 1


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: a quota of two cannot be told from one")
def test_a_part_of_a_processor_counts_as_one(tmp_path):
    assert processors(version_2(tmp_path, "/job", {"sys/fs/cgroup/job/cpu.max": "150000 100000"})) == 2
    unlimited = {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 10}
    assert processors(version_1(tmp_path / "1", "/", unlimited)) == len(os.sched_getaffinity(0))


AFFINITY = """
import json, os, torch
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
torch.set_num_threads(6)
import numpy as np, saematch as sm
from saematch.matching.backend import machine
from saematch.numeric.threads import ThreadPool, torch_threads
with torch_threads():
    inside = torch.get_num_threads()
x = np.random.default_rng(0).random((1500, 4))
status = sm.assign(x, x[::-1]).status
here = machine()
print(json.dumps([status, ThreadPool(2**30).size, inside, torch.get_num_threads(), here["cores"], here["threads"]]))
"""


def test_affinity_decides_how_many_threads_work_and_are_reported():
    """The number of threads that the calling program gave torch does not change."""
    assert run(AFFINITY) == ["optimal", 1, 1, 6, 1, 1]


ULIMIT = """
import json, re, resource, sys
from pathlib import Path
import numpy as np, torch, saematch as sm
from saematch.resources import available_memory
torch.set_num_threads(1)
limit, room = getattr(resource, sys.argv[1]), 300 * 2**20
sm.assign(np.eye(500, 4), np.eye(500, 4))  # what is imported and compiled is there
field = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}[sys.argv[1]]
used = int(re.search(rf"{field}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(limit, (used + room, used + room))
free = available_memory()
x = np.random.default_rng(0).random((9_000, 4)).astype(np.float32)  # 324 MB of products
found = sm.assign(x, x[::-1] + np.float32(1e-3))
print(json.dumps([free <= room, free > room // 2, found.certified]))
"""


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_under_ulimit_pairs_are_matched_whose_products_would_not_fit(limit):
    assert run(ULIMIT, limit) == [True, True, True]

#!/usr/bin/env bash
# Starts and stops a SLURM of one machine, for tests and benchmarks. Its configuration, state and logs are in one folder;
# it needs no systemd, no root and no other machine.
#
#   apt-get install slurm-wlm munge                      once, on Debian or Ubuntu
#   benchmarks/local_slurm.sh start FOLDER [CPUS]        CPUS may exceed those of the machine
#   export SLURM_CONF=FOLDER/slurm.conf                  for sbatch, squeue, sinfo and scancel
#   benchmarks/local_slurm.sh stop FOLDER                also ends the jobs
#
# PORT (default 16817) and the next port must be free. Jobs are scheduled by the CPUs and the memory that they request,
# but nothing limits them to that, because limits need control groups.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
if [ $# -lt 2 ] || { [ "$1" != start ] && [ "$1" != stop ]; }; then
    echo "usage: $0 start FOLDER [CPUS] or $0 stop FOLDER" >&2
    exit 2
fi
mkdir -p "$2"
folder=$(realpath "$2")
port=${PORT:-16817}
host=$(hostname -s)

# Ends a daemon by the process id in its file and waits until it has ended.
end() {
    local file=$folder/$1.pid pid
    [ -s "$file" ] || return 0
    pid=$(cat "$file")
    kill "$pid" 2> /dev/null || true
    for _ in $(seq 100); do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.1
    done
    rm -f "$file"
}

if [ "$1" = stop ]; then
    export SLURM_CONF=$folder/slurm.conf
    if [ -s "$folder/slurmctld.pid" ]; then
        scancel --user "$(id -un)" || true
        for _ in $(seq 100); do
            [ -z "$(squeue --noheader)" ] && break
            sleep 0.1
        done
    fi
    for daemon in slurmd slurmctld munged; do end "$daemon"; done
    exit 0
fi

for program in munged slurmctld slurmd sbatch; do
    if ! command -v "$program" > /dev/null; then
        echo "$program is not installed; on Debian and Ubuntu: apt-get install slurm-wlm munge" >&2
        exit 2
    fi
done
if [ -s "$folder/slurmctld.pid" ] && kill -0 "$(cat "$folder/slurmctld.pid")" 2> /dev/null; then
    echo "SLURM is already running in $folder; stop it first: $0 stop $folder" >&2
    exit 2
fi
cpus=${3:-$(nproc)}
memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
socket=$folder/munge.socket
if [ ${#socket} -gt 100 ]; then
    echo "$folder is too long for the path of a socket, expected at most 87 characters; choose another folder" >&2
    exit 2
fi
mkdir -p "$folder/state" "$folder/spool"
head -c 1024 /dev/urandom > "$folder/munge.key"
chmod 600 "$folder/munge.key"
# munge refuses to run below a folder that others may write to; --force lets it run anyway.
munged --force --key-file="$folder/munge.key" --socket="$socket" --pid-file="$folder/munged.pid" \
    --seed-file="$folder/munged.seed" --log-file="$folder/munged.log"
cat > "$folder/slurm.conf" << CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MaxArraySize=10001
MaxJobCount=20000
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=local Nodes=$host Default=YES MaxTime=INFINITE DefMemPerCPU=1024 State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld -c -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 100); do
    case $(sinfo --noheader --format=%T 2> /dev/null) in
        idle*)
            sinfo
            echo "export SLURM_CONF=$SLURM_CONF"
            exit 0
            ;;
    esac
    sleep 0.2
done
echo "SLURM did not start; see $folder/slurmctld.log and $folder/slurmd.log" >&2
exit 1

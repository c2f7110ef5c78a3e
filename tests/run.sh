# Runs the tests in two passes: most of them in several processes, then those marked `serial`, which
# measure time, in one process that has the machine to itself. Fails if either pass does.
# usage: sh tests/run.sh PYTHON PROCESSES MARKS [ARGUMENTS OF PYTEST...]; MARKS ends in "and" or is empty
python=$1 processes=$2 marks=$3
shift 3
# Tests start hundreds of processes: each would compile the source again where its bytecode is not kept.
unset PYTHONDONTWRITEBYTECODE
# Each push waits for the disk a dozen times: temporary files are in memory where 8 GB of it are free
# and programs run from there.
free_kb=$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)
if [ "${free_kb:-0}" -gt 8000000 ] && place=$(mktemp -d /dev/shm/t.XXX); then
	trap 'rm -rf "$place"' EXIT
	trap 'exit 130' INT TERM
	chmod 711 "$place" # PostgreSQL runs as its own user
	cp /bin/true "$place" && "$place/true" && export TMPDIR="$place"
fi
# Two processes that each start a thread per processor wait for each other in every product.
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	"$python" -m pytest -m "$marks not serial" -n "$processes" --dist worksteal \
	--durations 40 --durations-min 2 "$@"
first=$?
"$python" -m pytest -m "$marks serial" "$@"
second=$?
# 5: the arguments choose no test of this pass.
[ $first -eq 5 ] && exit $second
[ $second -eq 5 ] && exit $first
exit $((first > second ? first : second))

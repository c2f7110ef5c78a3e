# Runs the tests in two passes: most of them in several processes, then those marked `serial`, which
# measure time, in one process that has the machine to itself. Fails if either pass does.
# usage: sh tests/run.sh PYTHON PROCESSES MARKS [ARGUMENTS OF PYTEST...]; MARKS ends in "and" or is empty
python=$1 processes=$2 marks=$3
shift 3
# Tests start hundreds of processes: each would compile the source again where its bytecode is not kept.
unset PYTHONDONTWRITEBYTECODE
# Two processes that each start a thread per processor wait for each other in every product.
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	"$python" -m pytest -m "$marks not serial" -n "$processes" --dist worksteal "$@"
first=$?
"$python" -m pytest -m "$marks serial" "$@"
second=$?
# 5: the arguments choose no test of this pass.
[ $first -eq 5 ] && exit $second
[ $second -eq 5 ] && exit $first
exit $((first > second ? first : second))

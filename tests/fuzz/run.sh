#!/bin/sh
# Fuzz every target for MINUTES (20), two at a time, and say what came of it.
#
#   make fuzz                                all targets, 20 minutes each
#   make fuzz MINUTES=1                      the same, one minute each
#   tests/fuzz/run.sh c-model py-link        these only
#   MERGE=1 tests/fuzz/run.sh                afterwards, minimise what was found into tests/fuzz/corpus
#
# What libFuzzer finds on its way lies in build/fuzz/work and is where the next run starts; a finding lies in
# build/fuzz/findings, with the command that repeats it. Exits with 1 when there is one.
set -eu

cd "$(dirname "$0")/../.."
MINUTES=${MINUTES:-20}
SIZE_MOST=20000  # bytes of an input; larger files only make runs slow
out=build/fuzz
python=build/venv/bin/python
all="c-model c-link c-blobs c-device c-mdns py-models py-link py-blobs py-capture"

# ---- one target (what xargs runs below) -------------------------------------------------------------------------

if [ "${1:-}" = --one ]; then
    target=$2
    case $target in
        c-*) set -- "$out/${target#c-}" ;;
        *) set -- "$python" -m tests.fuzz.python "${target#py-}" ;;
    esac
    started=$(date +%s)
    status=0
    nice -n 10 "$@" -max_total_time=$((MINUTES * 60)) -max_len=$SIZE_MOST -timeout=20 -rss_limit_mb=3000 \
        -print_final_stats=1 -artifact_prefix="$out/findings/$target-" \
        "$out/work/$target" "tests/fuzz/corpus/$target" "$out/seeds/$target" >"$out/logs/$target.log" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/logs/$target.log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$out/logs/$target.log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 edges, \2 features/p' "$out/logs/$target.log" | tail -n 1)
    found=$(find "$out/findings" -name "$target-*" | wc -l)
    echo "$target: $(($(date +%s) - started)) s, ${runs:-0} runs, ${speed:-0}/s, ${covered:-no coverage}, $found findings"
    if [ "$status" != 0 ] && [ "$found" = 0 ]; then
        echo "$target: ended with $status; the end of its log ($out/logs/$target.log):"
        tail -n 5 "$out/logs/$target.log"
    fi
    # xargs stops at 255 only: the other targets go on.
    exit "$((status != 0))"
fi

# ---- all of them ------------------------------------------------------------------------------------------------

tools/bootstrap.sh fuzz
targets=${*:-$all}
for target in $targets; do
    case " $all " in *" $target "*) ;; *) echo "tests/fuzz/run.sh: no target $target; there are $all" >&2; exit 2 ;; esac
done
mkdir -p "$out/findings" "$out/logs"
$python -m tests.fuzz.seeds $targets >/dev/null
for target in $targets; do
    mkdir -p "$out/work/$target" "tests/fuzz/corpus/$target"
    case $target in c-*) $python -m tests.fuzz.build "${target#c-}" >/dev/null ;; esac
done

echo "fuzzing $MINUTES minutes each, two at a time: $targets"
status=0
echo "$targets" | tr ' ' '\n' | MINUTES=$MINUTES xargs -n 1 -P 2 "$0" --one || status=1

for finding in "$out"/findings/*; do
    [ -e "$finding" ] || continue
    status=1
    name=${finding##*/}
    case $name in
        c-*) target=${name#c-}; echo "repeat: $out/${target%%-*} $finding" ;;
        *) target=${name#py-}; echo "repeat: $python -m tests.fuzz.python --replay ${target%%-*} $finding" ;;
    esac
done
if [ "${MERGE:-}" = 1 ] && [ "$status" = 0 ]; then
    $python -m tests.fuzz.merge $targets
fi
exit "$status"

#!/usr/bin/env bash
# Verifies the Promela models in this folder, and that the bugs planted in them are found.
#
#   run.sh                 everything
#   run.sh MODEL...        only these, for example: run.sh handoff generation
#
# Prints one line per check, as they end, and at last `models: N passed, M failed`. Exit status: 0
# if all passed, 1 if one failed or none ran, 2 on wrong usage or if spin or a compiler is missing.
# Environment: JOBS, searches at a time (default 2); CC (default cc); MODEL_SECONDS_MAX, for one
# search (default 300). Needs bash 5.1.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cc=${CC:-cc}
jobs_max=${JOBS:-2}
seconds_max=${MODEL_SECONDS_MAX:-300}
# A search that needs more than these is cut off, and its check fails.
memory_mib_max=3000
depth_max=100000                    # steps

die() {
  echo "run.sh: $1" >&2
  exit 2
}

for tool in spin "$cc"; do
  command -v "$tool" >/dev/null || die "$tool is not installed"
done
for name in "$@"; do
  [[ $name != */* && -f $here/$name.pml ]] || die "there is no model $name"
done
wanted=("$@")

# --- The checks, in order: what to search, for what, and what must be found.

check_model=()
check_kind=()                       # holds, ends: no error; fails, hangs: the expected error
check_defines=()
check_message=()
check_compiler_flags=()

model() {                           # model NAME [COMPILER_FLAG...]: of what the next ones are
  model=$1
  compiler_flags="${*:2}"
}

is_wanted() {
  local name
  ((${#wanted[@]} == 0)) && return 0
  for name in "${wanted[@]}"; do
    [[ $name == "$model" ]] && return 0
  done
  return 1
}

add() {                             # add KIND DEFINES MESSAGE
  is_wanted || return 0
  check_model+=("$model")
  check_kind+=("$1")
  check_defines+=("$2")
  check_message+=("$3")
  check_compiler_flags+=("$compiler_flags")
}

# Assertions hold and every process can end; the search reaches every statement of the model.
holds() { add holds "${1-}" ''; }
# There is no infinite run.
ends() { add ends "${1-}" ''; }
# The planted bug breaks an assertion, or leaves a process stuck: fails DEFINES MESSAGE.
fails() { add fails "$1" "$2"; }
# The planted bug makes an infinite run.
hangs() { add hangs "$1" 'non-progress cycle'; }

model pin_reclaim
holds 'PUT_ONLY'
holds 'READERS=1 HOLDERS=2'
holds 'READERS=1 COMMITS=3 BUFFER=2'
holds 'READERS=1 COPY_PIN'
fails 'READERS=1 NO_SECOND_LOOK' 'record'
fails 'READERS=1 NO_FENCE' 'record'
fails 'READERS=1 NO_RECLAIM_FENCE' 'record'
fails 'READERS=1 PRUNE_AT_UNPUBLISHED' 'record'
fails 'READERS=1 REUSE_SCAN' 'record'
fails 'PUT_ONLY SLOTS_BEFORE_FENCE' 'record'
fails 'READERS=1 BLOCK_PIN_LATE' 'freed[record]'
fails 'READERS=1 BLOCK_SCAN_FIRST' 'freed[record]'
fails 'READERS=1 COPY_PIN COPY_WITHOUT_LOCK' 'record'
fails 'READERS=1 WITNESS' 'word[0]==0'

# Deaths are rendezvous in escape clauses: with these spin's partial order reduction is not sound.
model commit_death -DNOREDUCE
holds
holds 'TAG_WORD'
holds 'DELTAS_0=1 GRANTS=1'
ends 'DELTAS_0=1'
fails 'WORKER_READS_ASSIGNED' 'committed_as'
fails 'NO_CLEAR_ASSIGNED' 'committed_as'
fails 'UNTAGGED_ASSIGNED' 'committed_as'
fails 'UNTAGGED_ASSIGNED REPAIR_CLEARS_ANSWERED' 'committed_as'
fails 'CLEAR_BEFORE_ANSWER' 'is_committed'
fails 'TAG_WORD TAG_BEFORE_CLEAR' 'committed_as'
fails 'STORE_BEFORE_JOURNAL' 'assertion violated 0'
fails 'COUNT_BEFORE_ENTRY' 'assertion violated 0'
fails 'VERSION_BEFORE_COUNT GRANTS=1' 'assertion violated 0'
fails 'UNDO_ALWAYS' 'assertion violated 0'
fails 'NO_UNDO' 'assertion violated 0'
fails 'NO_UNDO GRANTS=1' 'granted'
fails 'STEP_WITHOUT_END GRANTS=1' 'granted'
fails 'ANSWER_BEFORE_VERSION' 'committed_as'
fails 'POISON_COMMITTED' 'is_committed'
fails 'WITNESS' 'answer[me]%16)!=3'

model generation
holds
fails 'NO_RECHECK OTHER_KEY_ONLY' '(value/16)==0'
fails 'GEN_AFTER_FIELDS OTHER_KEY_ONLY' '(value/16)==0'
fails 'GEN_ONLY_AT_LEASE OTHER_KEY_ONLY' '(value/16)==0'
fails 'GEN_UNDONE OTHER_KEY_ONLY' '(value/16)==0'
fails 'WITNESS' 'assertion violated 0'

model order_back
holds
fails 'ONE_LOOK' 'assertion violated'
fails 'LINKED_UNSEEN' 'assertion violated'
fails 'OWN_GEN_UNSEEN' 'assertion violated'
fails 'OWN_GEN_FIRST' 'assertion violated'
fails 'LOOK_FIRST' 'assertion violated'
fails 'GEN_LATE' 'assertion violated'
fails 'WITNESS' 'assertion violated 0'

model index_split
holds
ends 'OPERATIONS=3'
fails 'NO_GEN_CHECK LOOK_FOR_PRESENT' 'stays_in'
fails 'NO_GEN_CHECK LOOK_FOR_ABSENT' 'stays_out'
fails 'NO_MISS_CHECK' 'stays_in'
fails 'NEXT_TOO_LATE' 'stays_in'
fails 'EMPTY_ENTRY_IS_END' 'stays_in'
hangs 'MARKER_FIRST OPERATIONS=3'
fails 'WITNESS' 'assertion violated 0'

model handoff -DNOREDUCE
holds
holds 'WORKERS=2 REQUESTS=3'
holds 'DEATH LATE_TIMEOUT'
holds 'WORKERS=2 REQUESTS=2 DEATH EARLY_TIMEOUT'
holds 'REQUEST_WORDS'
holds 'REQUEST_WORDS DEATH LATE_TIMEOUT'
holds 'WORKERS=2 REQUEST_WORDS DEATH EARLY_TIMEOUT'
ends
ends 'REQUEST_WORDS'
ends 'WORKERS=2 REQUESTS=2 DEATH LATE_TIMEOUT'
fails 'NO_RESCAN' 'invalid end state'
fails 'NO_SECOND_TRY' 'invalid end state'
fails 'NO_UNLOCK_FENCE' 'invalid end state'
fails 'BITS_CLEARED_LATE' 'invalid end state'
fails 'NO_SLEEPING_FENCE' 'invalid end state'
fails 'SLEEPING_SEEN_FIRST' 'invalid end state'
fails 'NO_FUTEX_CHECK' 'invalid end state'
fails 'DEATH' 'invalid end state'
fails 'REQUEST_WORDS NO_RESCAN' 'invalid end state'
fails 'REQUEST_WORDS NO_UNLOCK_FENCE' 'invalid end state'
fails 'REQUEST_WORDS NO_REQUEST_FENCE' 'invalid end state'
fails 'REQUEST_WORDS DEATH' 'invalid end state'

model read_set
holds
fails 'LATE_CLOCK' 'assertion violated'
fails 'IN_FLIGHT_FAILS' 'key_dead'
fails 'IN_FLIGHT_HOLDS' 'keys_changed'
fails 'EPOCH_ONCE' 'entries'
fails 'NODE_NOT_ENTERED' 'assertion violated'
fails 'NO_LIMIT' 'assertion violated'
fails 'NO_MARK' 'key_dead'
fails 'WRAP_IGNORED' 'assertion violated'
fails 'PROGRESS_TOO_FAR' 'assertion violated'
fails 'WITNESS' 'validations'

# --- Running them.

work=$(mktemp -d)
declare -A running=()               # process id -> check
clean_up() {
  ((${#running[@]} == 0)) || kill "${!running[@]}" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

# search CHECK: its own folder, spin, compiler, verifier; all they say is in the folder's `report`.
search() {
  local name defines=() options=("-m$depth_max")
  local compile=(-w "-DMEMLIM=$memory_mib_max" ${check_compiler_flags[$1]})
  for name in ${check_defines[$1]}; do
    defines+=("-D$name")
  done
  case ${check_kind[$1]} in
    holds | ends) compile+=(-O1) ;;
    fails | hangs) compile+=(-O0) && options+=(-w20) ;;  # soon found: a small hash table
  esac
  case ${check_kind[$1]} in
    holds | fails) compile+=(-DSAFETY) ;;
    ends | hangs) compile+=(-DNP) && options+=(-l) ;;    # every infinite run is an error
  esac
  mkdir "$work/$1"
  cd "$work/$1"
  exec >report 2>&1
  cp "$here/${check_model[$1]}.pml" .
  spin -a "${defines[@]}" "${check_model[$1]}.pml" || exit
  "$cc" "${compile[@]}" -o pan pan.c || exit
  exec timeout --foreground "$seconds_max" ./pan "${options[@]}"
}

errors_found() { sed -n 's/.*errors: \([0-9]*\).*/\1/p' "$report"; }
states_stored() { sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' "$report"; }
first_error() { sed -n 's/^pan:1: \(.*\) (at depth [0-9]*)$/\1/p' "$report" | head -n 1; }
is_cut_off() {
  grep -qE 'max search depth too small|not completed|MEMLIM bound|out of memory' "$report" ||
    ! grep -q '^Full statespace search' "$report"
}
# Statements that the search never came to. A model that cannot reach its own steps proves nothing.
never_reached() {
  sed -n 's/^\t\([a-z_]*\.pml:[0-9]*, state .*\)/\1/p' "$report" | grep -v '"-end-"' || true
}

# judge CHECK STATUS: sets `remark`; fails if the check does.
judge() {
  local errors
  errors=$(errors_found)
  if [[ $2 != 0 || -z $errors ]]; then
    remark="exit status $2"
    return 1
  fi
  case ${check_kind[$1]} in
    fails | hangs)
      remark=$(first_error)
      [[ $errors != 0 && $remark == *"${check_message[$1]}"* ]] && return 0
      remark="wanted: ${check_message[$1]}; errors: $errors $remark"
      return 1
      ;;
  esac
  remark="$(states_stored) states"
  if [[ $errors != 0 ]]; then
    remark="errors: $errors $(first_error)"
  elif is_cut_off; then
    remark="the search was cut off"
  elif [[ ${check_kind[$1]} == holds && -n $(never_reached) ]]; then
    remark="never reached: $(never_reached | head -n 1)"
  else
    return 0
  fi
  return 1
}

passed=0
failed=0
await_one() {
  local status=0 finished check remark outcome=ok
  wait -n -p finished "${!running[@]}" || status=$?
  check=${running[$finished]}
  unset "running[$finished]"
  report=$work/$check/report
  if judge "$check" "$status"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    outcome=FAILED
  fi
  printf '%-6s %-12s %-5s  %-38s  %s\n' "$outcome" "${check_model[$check]}" \
    "${check_kind[$check]}" "${check_defines[$check]:-(none)}" "$remark"
  [[ $outcome == ok ]] || tail -n 30 "$report" | sed 's/^/    /'
  rm -rf "${work:?}/$check"
}

for check in "${!check_model[@]}"; do
  ((${#running[@]} < jobs_max)) || await_one
  search "$check" &
  running[$!]=$check
done
while ((${#running[@]} > 0)); do
  await_one
done

echo "models: $passed passed, $failed failed"
((failed == 0 && passed > 0))

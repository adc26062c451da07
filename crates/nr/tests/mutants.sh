#!/bin/sh
# Shows that the tests would notice: puts one defect at a time into a copy of the crate, and runs the tests on it.
# Usage: crates/nr/tests/mutants.sh [NAME]     Ends with 1 if a defect was not noticed. About a minute per defect.
set -eu

root=$(cd "$(dirname "$0")/../../.." && pwd)
copy=$root/target/mutants
only=${1:-}
missed=0

fresh() {
    mkdir -p "$copy/crates"
    rm -rf "$copy/crates/nr"
    cp -r "$root/crates/nr" "$copy/crates/nr"
    sed 's|^members = .*|members = ["crates/nr"]|; /^default-members/d' "$root/Cargo.toml" > "$copy/Cargo.toml"
    cp "$root/Cargo.lock" "$copy/Cargo.lock"
}

# mutant NAME FILE SED-EXPRESSION: the expression must change the file.
mutant() {
    case $1 in *"$only"*) ;; *) return 0 ;; esac
    fresh
    sed -i "$3" "$copy/crates/nr/src/$2"
    if cmp -s "$root/crates/nr/src/$2" "$copy/crates/nr/src/$2"; then
        echo "$1: the expression changes nothing"
        missed=1
        return 0
    fi
    for tests in loom shuttle linearizable behaviour; do
        log=$copy/$1-$tests.log
        status=0
        (cd "$copy" && timeout 300 cargo test --release -p nr --test "$tests") > "$log" 2>&1 || status=$?
        if grep -q '^error\[' "$log"; then
            echo "$1: does not compile, see $log"
            missed=1
            return 0
        elif [ "$status" = 124 ]; then
            echo "$1: noticed by $tests (it hangs)"
            return 0
        elif [ "$status" != 0 ]; then
            echo "$1: noticed by $tests: $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | tr '\n' ' ')"
            return 0
        fi
    done
    echo "$1: NOT NOTICED"
    missed=1
}

mutant generation-mark log.rs 's/mark >> 2 == position + 1/mark != 0/'
mutant mark-order log.rs 's/mark_of(position, kind), Ordering::Release/mark_of(position, kind), Ordering::Relaxed/'
mutant tail-update log.rs 's/compare_exchange_weak(tail, limit,/compare_exchange_weak(tail, tail + 1,/'
mutant cursor-update combine.rs 's/log.set_cursor(at.replica, position);/log.set_cursor(at.replica, target);/'
mutant garbage-collection log.rs 's/if limit > slowest + self.length() {/if false {/'
mutant reader-recheck lane.rs 's/word & (LOCKED | POISONED | ABSENT) == 0).then_some/word \& (POISONED | ABSENT) == 0).then_some/'
mutant reader-fence lane.rs '/slot::READING, Ordering::Relaxed/,/word.load/s/fence(Ordering::SeqCst);//'
mutant reader-freshness log.rs 's/self.kind_at(cursor.load(Ordering::Acquire)).is_none()/true/'
mutant writer-waits-for-readers lane.rs 's/while state == slot::READING {/while false {/'
mutant hand-over lane.rs 's/if self.hand_over() {/if self.hand_over() \&\& self.span() == 0 {/'
mutant response-order combine.rs 's/slot::DONE, Ordering::Release/slot::DONE, Ordering::Relaxed/'
mutant post-order slot.rs 's/self.state.store(POSTED, Ordering::Release)/self.state.store(POSTED, Ordering::Relaxed)/'
mutant grant-order lane.rs 's/slot::GRANTED, Ordering::Release/slot::GRANTED, Ordering::Relaxed/'
mutant all-in-one-order all.rs 's/let order = self.all_order.lock(&self.hooks);/let order = ();/'
exit "$missed"

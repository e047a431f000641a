#!/bin/sh
# Runs golden_check on both golden bundles, on the reference and on every CPU level of this machine,
# and on what sd35 convert makes of them; or all that on a device, in each of its types.
# usage: golden.sh PATH/TO/golden_check SHARED_DIR PATH/TO/sd35 [cuda]
set -eu
check=$1
shared=$2
sd35=$3
device=${4:-}
if [ ! -x "$shared/golden/assemble" ]; then
    echo "SKIPPED: the golden check needs the golden values in $shared, which are not here" >&2
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

run() {
    name=$1
    shift
    if "$check" "$@" > "$work/$name.log" 2>&1; then
        tail -n 1 "$work/$name.log" | sed "s/^/$name: /"
    else
        echo "$name: FAILED"
        grep -v ' ok$' "$work/$name.log" || true
        return 1
    fi
}

for bundle in tiny-large tiny-medium; do
    "$shared/golden/assemble" "$bundle" "$work/$bundle"
done
convert() {
    "$sd35" convert --quiet --model-path "$work/$1" --output-path "$work/$1-fp8"
    cp "$work/$1/expected.safetensors" "$work/$1/cases.json" "$work/$1-fp8"
}

# FP8 weights with activations in 16 bits, then in FP8 as well where the device has it.
if [ -n "$device" ]; then
    for bundle in tiny-large tiny-medium; do
        for precision in f32 fp16 bf16; do
            run "$bundle-$precision" "$work/$bundle" --device "$device" --precision $precision ||
                failed=1
        done
        convert "$bundle"
        run "$bundle-fp8-fp16" "$work/$bundle-fp8" --device "$device" --precision fp16 --fp8 ||
            failed=1
        run "$bundle-fp8-auto" "$work/$bundle-fp8" --device "$device" --precision auto \
            --fp8-activations || failed=1
        grep velocity "$work/$bundle"*.log | sed "s|^$work/||" || true
    done
    exit "$failed"
fi
# The scalar reference takes minutes and one thread each: both at once.
run tiny-large-ref "$work/tiny-large" --device ref --tokens "$shared/golden/tokens.json" &
large=$!
run tiny-medium-ref "$work/tiny-medium" --device ref &
medium=$!
for bundle in tiny-large tiny-medium; do
    convert "$bundle"
    run "$bundle-fp8" "$work/$bundle-fp8" --fp8 || failed=1
    run "$bundle-fp8-activations" "$work/$bundle-fp8" --fp8-activations || failed=1
    grep velocity "$work/$bundle-fp8.log" "$work/$bundle-fp8-activations.log" | sed "s|^$work/||"
done
wait "$large" || failed=1
wait "$medium" || failed=1
for bundle in tiny-large tiny-medium; do
    for level in $("$check" --levels); do
        run "$bundle-$level" "$work/$bundle" --cpu-level "$level" --tokens "$shared/golden/tokens.json" ||
            failed=1
    done
done
exit "$failed"

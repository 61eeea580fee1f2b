#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""summarise.py BUILD_DIR... [--skip REASON]...: what the tests of these builds came to, from Meson's
logs, with one more skip for each reason.

Prints each failed test, each skipped one with its reason, and the totals. A test that skips, or a
part of one, says so on a line that begins with "SKIP:".
"""
import json
import re
import sys

passed = failed = skipped = 0
notes = []
folders = sys.argv[1:]
while "--skip" in folders:
    at = folders.index("--skip")
    notes.append(f"skipped {folders[at + 1]}")
    skipped += 1
    del folders[at:at + 2]
for folder in folders:
    try:
        with open(f"{folder}/meson-logs/testlog.json", encoding="utf-8") as log:
            tests = [json.loads(line) for line in log]
    except OSError as error:
        notes.append(f"FAILED {folder}: no test ran ({error.strerror})")
        failed += 1
        continue
    for test in tests:
        output = test.get("stdout", "") + "\n" + test.get("stderr", "")
        name = f"{folder}: {test['name']}"
        reasons = re.findall(r"^SKIP: *(.*)", output, re.MULTILINE)
        # cmocka counts parts that were skipped without a word, too.
        parts = sum(map(int, re.findall(r"^\[  SKIPPED \] (\d+) test", output, re.MULTILINE)))
        reasons += ["no reason given"] * (max(parts, test["result"] == "SKIP") - len(reasons))
        notes += [f"skipped {name}: {reason}" for reason in reasons]
        skipped += len(reasons)
        if test["result"] in ("OK", "EXPECTEDFAIL"):
            passed += 1
        elif test["result"] != "SKIP":
            failed += 1
            notes.append(f"FAILED {name}: {test['result']}")
print("\n".join(notes))
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(failed > 0 or passed == 0)

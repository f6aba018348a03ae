#!/bin/sh
# Installs what is missing, builds, and boots a Linux guest to a shell prompt in this terminal.
# `poweroff` in the guest ends it. Safe to repeat; the second time is quick.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
node_modules/.bin/tsx scripts/build.ts
exec node_modules/.bin/tsx scripts/demo.ts

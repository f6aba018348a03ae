#!/bin/sh
# Runs end-to-end tests by name: `npm run e2e -- disk` runs the files whose path has "disk" in it,
# `npm run e2e -- boot -t reboot` of these the tests whose name has "reboot". It starts a host for
# the run, or uses the one that `npm run host` keeps up.
set -eu
cd "$(dirname "$0")/.."
node_modules/.bin/tsx scripts/build.ts
exec node_modules/.bin/vitest run --project e2e "$@"

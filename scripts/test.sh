#!/bin/sh
# Sets the machine up and runs every tier of the tests. `npm test -- unit kvm` runs some of them.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
exec node_modules/.bin/tsx scripts/test.ts "$@"

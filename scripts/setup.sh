#!/bin/sh
# Brings a Debian machine to where everything here builds and runs. Safe to repeat: what is there
# stays. Each failed step names itself and what to do.
set -eu
cd "$(dirname "$0")/.."

fail() {
  echo "Set-up failed at: $1" >&2
  echo "What to do: $2" >&2
  exit 1
}

major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null) ||
  fail 'looking for node' 'install Node.js 20 (Debian: apt-get install nodejs npm)'
[ "$major" -ge 20 ] || fail "checking node $major" 'install Node.js 20 or later'
command -v npm >/dev/null || fail 'looking for npm' 'install npm (Debian: apt-get install npm)'

missing=''
for package in $(grep -v '^#' scripts/packages.txt); do
  case $package in *\?*) command -v "${package%%\?*}" >/dev/null && continue ;; esac
  package=${package#*\?}
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing="$missing $package"
done
if [ -n "$missing" ]; then
  echo "Set-up: installing$missing"
  [ "$(id -u)" = 0 ] || fail 'installing packages' "run it as root, or: apt-get install$missing"
  log=$(mktemp)
  # shellcheck disable=SC2086 # a list of words is meant
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    fail 'installing packages' "see above, then: apt-get install$missing"
  }
  rm -f "$log"
fi

# node_modules is what the lock file says, or it is made anew.
if ! cmp -s package-lock.json node_modules/.installed-lock 2>/dev/null; then
  echo 'Set-up: installing npm packages'
  # Not `npm ci`: it refuses a lock that lacks packages which are for other platforms only.
  npm install --no-save --no-audit --no-fund --loglevel=error --ignore-scripts ||
    fail 'installing npm packages' 'check that the npm registry can be reached'
  cp package-lock.json node_modules/.installed-lock
fi

#!/bin/sh
# What the container runs: prepares the folders, says clearly what is wrong with them, and becomes the server.
#
#   (nothing, or flags)   nightbatch serve [flags]
#   health                exit code 0 when the server answers (the image's health check)
#   any other word        nightbatch WORD ..., for example `doctor` or `models`
#
# Folders and address come from the image's environment:
#   NIGHTBATCH_STORE__FOLDER   data folder (/data)          a volume: files, results, metadata
#   HF_HOME, XDG_CACHE_HOME    downloaded weights, prepared models, compiled kernels; on the /models volume
#   NIGHTBATCH_SERVER__PORT    port inside the container (8000)
set -eu

say() {
    printf 'nightbatch-entrypoint: %s\n' "$1" >&2
}

# ensure_folder PATH WHAT: there, and writable by the user that the server runs as.
ensure_folder() {
    if ! mkdir -p -- "$1" 2>/dev/null; then
        say "cannot create the $2 folder $1 as user $(id -u):$(id -g)."
        say "mount a volume there that this user may write: chown $(id -u):$(id -g) on the host, or run with --user"
        exit 73
    fi
    if ! probe=$(mktemp "$1/.writable.XXXXXX" 2>/dev/null); then
        say "the $2 folder $1 cannot be written by user $(id -u):$(id -g); it belongs to $(stat -c '%u:%g, mode %a' -- "$1")."
        say "chown it to $(id -u):$(id -g) on the host, or run with --user $(stat -c '%u:%g' -- "$1")"
        exit 73
    fi
    rm -f -- "$probe"
}

# An arbitrary --user has no home of its own; compilers and caches want one.
ensure_home() {
    if [ -z "${HOME:-}" ] || [ ! -w "$HOME" ]; then
        HOME="${XDG_CACHE_HOME:-/tmp}/home"
        export HOME
        ensure_folder "$HOME" "home"
    fi
}

prepare() {
    ensure_folder "${NIGHTBATCH_STORE__FOLDER:-/data}" "data"
    for folder in "${HF_HOME:-}" "${XDG_CACHE_HOME:-}"; do
        if [ -n "$folder" ]; then
            ensure_folder "$folder" "models"
        fi
    done
    ensure_home
}

health() {
    exec python3 -c '
import sys, urllib.request
with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/healthz", timeout=4) as answer:
    sys.exit(answer.status != 200)
' "${NIGHTBATCH_SERVER__PORT:-8000}" 2>/dev/null
}

case "${1:-}" in
    health)
        health
        ;;
    "" | -*)
        prepare
        # exec: the server gets the signals itself and can drain.
        exec nightbatch serve "$@"
        ;;
    *)
        prepare
        exec nightbatch "$@"
        ;;
esac

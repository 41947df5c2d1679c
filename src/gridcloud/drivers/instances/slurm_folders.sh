# What the `slurm` provider does on a login node, beside Slurm's own commands: sh -c TEXT gridcloud VERB [WORD…]
#
# Fixed text for any POSIX sh; all values come as words, what is secret by standard input.
#   prepare FOLDER [HOME]     make both, for us alone; standard input: a token in the first line, then authorities
#   list FOLDER               the names of what lies there
#   tail FOLDER               the end of what its job said
#   remove FOLDER             remove it

set -u
umask 077
export LC_ALL=C

verb=$1
shift
case $verb in
prepare)
    if [ -L "$1" ]; then # another job of this account may have put it there
        echo "$1 is a link" >&2
        exit 1
    fi
    mkdir -p -- "$1" && chmod 700 -- "$1" || exit 1
    if [ $# -gt 1 ]; then mkdir -p -- "$2" || exit 1; fi
    IFS= read -r token || exit 1
    rm -f -- "$1/token" "$1/ca.pem"
    printf '%s\n' "$token" >"$1/token" && cat >"$1/ca.pem"
    ;;
list)
    cd -- "$1" 2>/dev/null || exit 0
    for name in *; do
        if [ -d "$name" ]; then printf '%s\n' "$name"; fi
    done
    ;;
tail) tail -c 600 -- "$1/log" 2>/dev/null ;;
remove) rm -rf -- "$1" ;;
*) exit 64 ;;
esac

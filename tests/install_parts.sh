# Installs the Debian packages that tests use and that are missing; where it may not, names them.
set -eu
missing=""
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 \
	|| missing="$missing postgresql"
command -v skopeo >/dev/null 2>&1 || missing="$missing skopeo"
command -v wrk >/dev/null 2>&1 || missing="$missing wrk"
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
command -v c++ >/dev/null 2>&1 || missing="$missing g++"
command -v clang >/dev/null 2>&1 || missing="$missing clang"
command -v nm >/dev/null 2>&1 || missing="$missing binutils"
command -v cosign >/dev/null 2>&1 || missing="$missing cosign"
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v prometheus >/dev/null 2>&1 || missing="$missing prometheus"
command -v prometheus-alertmanager >/dev/null 2>&1 || missing="$missing prometheus-alertmanager"
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v kustomize >/dev/null 2>&1 || missing="$missing kustomize"
command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ] || missing="$missing mosquitto"
command -v nats-server >/dev/null 2>&1 || [ -x /usr/sbin/nats-server ] || missing="$missing nats-server"
# Images and containers, for the second tier.
for tool in podman buildah runc mmdebstrap podman-compose catatonit; do
	command -v $tool >/dev/null 2>&1 || missing="$missing $tool"
done
[ -e /usr/lib/podman/netavark ] || missing="$missing netavark aardvark-dns"
command -v nft >/dev/null 2>&1 || missing="$missing nftables"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
else
	echo "tests need:$missing (apt-get install$missing); those that use them will fail" >&2
fi

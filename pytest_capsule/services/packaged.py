"""Servers as distributions package them, started without an official image's entrypoint: shell scripts."""

from __future__ import annotations

from typing import Any

from pytest_capsule.errors import UsageError
from pytest_capsule.spec import Build

HOST_IMAGE = "capsule/host"


def origin(
    official: dict[str, Any], script: str, *words: str, packaged: Any, from_host: bool, user: str | None = None
) -> dict[str, Any]:
    """A container's keywords: those of the ``official`` image, or else of one that has the packaged server.

    There ``script`` starts it, as ``user``; ``words`` are its name and what it is called with.
    """
    if from_host and packaged is not None:
        raise UsageError("a service is from_host or from a packaged= image, not both")
    if packaged is None and not from_host:
        return official
    image = HOST_IMAGE if from_host else packaged
    return {
        "build" if isinstance(image, Build) else "image": image,
        "command": ["/bin/sh", "-euc", script, *words],
        "entrypoint": [],
        "user": user,
    }


# In nginx' settings the first server of a port answers, so one of conf.d comes before the one that is always there.
# In each of them what is there already is left as it is: a container of a committed image begins where that ended.

POSTGRES = """\
PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
umask 077
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" >/tmp/password
    initdb --pgdata="$PGDATA" --username="$POSTGRES_USER" --pwfile=/tmp/password --encoding=UTF8 --locale=C.UTF-8 \\
        --auth=scram-sha-256 --no-sync $POSTGRES_INITDB_ARGS
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    if [ "$POSTGRES_DB" != postgres ]; then
        echo "CREATE DATABASE \\"$POSTGRES_DB\\"" | postgres --single -j -D "$PGDATA" postgres >/dev/null
    fi
fi
exec postgres -D "$PGDATA" -k /tmp -c listen_addresses='*' "$@"
"""

MYSQL = """\
PATH=$PATH:/usr/sbin
datadir=/var/tmp/mysql
quoted() { printf %s "$1" | sed "s/['\\\\\\\\]/\\\\\\\\&/g"; }
if [ ! -d $datadir/mysql ]; then
    mkdir -p $datadir
    mariadb-install-db --no-defaults --user=root --datadir=$datadir --skip-test-db \\
        --auth-root-authentication-method=normal >/tmp/install.log || { cat /tmp/install.log; exit 1; }
    cat >$datadir/init.sql <<END
CREATE DATABASE IF NOT EXISTS \\`$MARIADB_DATABASE\\`;
CREATE USER IF NOT EXISTS '$(quoted "$MARIADB_USER")'@'%' IDENTIFIED BY '$(quoted "$MARIADB_PASSWORD")';
GRANT ALL ON \\`$MARIADB_DATABASE\\`.* TO '$(quoted "$MARIADB_USER")'@'%';
ALTER USER 'root'@'localhost' IDENTIFIED BY '$(quoted "$MARIADB_ROOT_PASSWORD")';
END
fi
exec mariadbd --no-defaults --user=root --datadir=$datadir --socket=/tmp/mysql.sock --pid-file=/tmp/mysql.pid \\
    --bind-address='*' --init-file=$datadir/init.sql "$@"
"""

REDIS = """\
exec redis-server --protected-mode no "$@"
"""

RABBITMQ = """\
export HOME=/tmp/rabbitmq RABBITMQ_LOG_BASE=/tmp/rabbitmq/log
export RABBITMQ_LOGS=- RABBITMQ_PID_FILE=/tmp/rabbitmq/pid RABBITMQ_NODENAME=rabbit@localhost
export RABBITMQ_CONFIG_FILE=/tmp/rabbitmq/rabbitmq.conf RABBITMQ_ENABLED_PLUGINS_FILE=/tmp/rabbitmq/plugins
mkdir -p "$RABBITMQ_MNESIA_BASE" /tmp/rabbitmq/log
cat >/tmp/rabbitmq/rabbitmq.conf <<END
default_user = $RABBITMQ_DEFAULT_USER
default_pass = $RABBITMQ_DEFAULT_PASS
default_vhost = $RABBITMQ_DEFAULT_VHOST
listeners.tcp.default = 5672
loopback_users = none
END
exec /usr/lib/rabbitmq/bin/rabbitmq-server "$@"
"""

NGINX = """\
PATH=$PATH:/usr/sbin
ipv6=
if [ -f /proc/net/if_inet6 ]; then ipv6='listen [::]:80;'; fi
mkdir -p /tmp/nginx /usr/share/nginx/html
cat >/tmp/nginx/nginx.conf <<END
daemon off;
user root;
pid /tmp/nginx/pid;
error_log stderr;
events {}
http {
    access_log /dev/stdout;
    client_body_temp_path /tmp/nginx/body;
    proxy_temp_path /tmp/nginx/proxy;
    fastcgi_temp_path /tmp/nginx/fastcgi;
    uwsgi_temp_path /tmp/nginx/uwsgi;
    scgi_temp_path /tmp/nginx/scgi;
    include /etc/nginx/mime.types;
    include /etc/nginx/conf.d/*.conf;
    server { listen 80; $ipv6 root /usr/share/nginx/html; }
}
END
exec nginx -e stderr -c /tmp/nginx/nginx.conf "$@"
"""

"""Makes and removes an app: a record of it, its streams, and its bucket if it has one. Worker hosts run already."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any
from urllib.request import Request, urlopen

import redis

from fsd_core.common.fields import read
from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.advice import line
from fsd_core.providers.app_name import check_app, check_size
from fsd_core.providers.environment import from_record, to_environment
from fsd_core.providers.settings import texts
from fsd_redis.client import CONNECT_S, advice, classify, client, name
from fsd_redis.invoke import SECRET
from fsd_redis.messages import GROUP, queue
from fsd_redis.objects import MARK
from fsd_redis.settings import TOKEN, URL, WORKERS, Settings

__all__ = ["RedisProvisioner"]

_OLDEST = (6, 2)  # the first version that has XAUTOCLAIM


class RedisProvisioner:
    """Implements `fsd_core.driver.Provisioner`."""

    def __init__(self, table: Mapping[str, object]) -> None:
        self._settings = read(Settings, table, "[redis] ")
        if not (self._settings.url or os.environ.get(URL)):
            from fsd_redis.harness import here

            here()
        self._url = self._settings.url or os.environ[URL]
        self._workers = self._settings.workers or tuple(filter(None, os.environ.get(WORKERS, "").split(",")))

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make what is missing. Raises `InputError` if Redis or a worker host cannot be used as it is set up."""
        check_size(ranks, slots)
        with self._asking(app) as api:
            _check_redis(api.info())
            _check_hosts(self._workers)
            had = self._read(api, app) or Resources(app, 0, 0)
            names = texts(self._settings, ("memory_mb", "timeout_s", "concurrency", "lease_s", "region"))
            bucket = f"{self._settings.bucket}-{app}" if self._settings.bucket else ""
            names |= {"url": self._url, "workers": ",".join(self._workers), "bucket": bucket}
            if had.ranks and had.names["bucket"] != bucket:
                raise InputError(
                    f"[redis] bucket: app {app!r} was made with {had.names['bucket'] or 'none'}: expected that, or a destroyed app"
                )
            if bucket:
                from fsd_redis.bucket import make

                make(names, app)
            made = Resources(app, max(ranks, had.ranks), max(slots, had.slots), names)
            for key in (queue(app, slot, rank) for slot in range(made.slots) for rank in range(made.ranks)):
                try:
                    api.xgroup_create(key, GROUP, "0", mkstream=True)
                except redis.ResponseError as error:
                    if not str(error).startswith("BUSYGROUP"):  # the queue is there
                        raise
            api.set(name(app, MARK), to_environment(made))
            return made

    def find(self, app: str) -> Resources | None:
        """The app as `ensure` made it, or None."""
        with self._asking(app) as api:
            return self._read(api, app)

    def sweep(self, app: str) -> Sequence[str]:
        """Nothing: `ensure` uses whatever an interrupted call left."""
        return []

    def destroy(self, app: str) -> Sequence[str]:
        """Remove the bucket, then the record, so that no request of a worker makes anything anew; then all keys."""
        with self._asking(app) as api:
            had, removed = self._read(api, app), []
            if had and had.names["bucket"]:
                from fsd_redis.bucket import remove

                removed.append(remove(had))
            removed += [f"app {app}"] if api.delete(name(app, MARK)) else []
            keys = list(api.scan_iter(name(app, "*"), count=1000))
            for at in range(0, len(keys), 1000):
                api.delete(*keys[at : at + 1000])
            return removed + ([f"{len(keys)} queues and objects"] if keys else [])

    @staticmethod
    def _read(api: Any, app: str) -> Resources | None:
        found = api.get(name(app, MARK))
        return from_record(found.decode(), app, f"the key {name(app, MARK)}") if found else None

    @contextmanager
    def _asking(self, app: str) -> Iterator[Any]:
        """A client of Redis, whose errors become errors for people."""
        check_app(app)
        with closing(client(self._url)) as api:
            try:
                yield api
            except redis.RedisError as error:
                text = line(f"Redis at {self._url}: {error}", advice(f"{type(error).__name__}: {error}"))
                raise (InputError(text) if classify(error) is Code.DENIED else DriverError(classify(error), text)) from error


def _check_redis(info: Mapping[str, object]) -> None:
    """Raise `InputError` if this Redis is too old, or may drop what it holds when its memory is full."""
    version, policy = str(info["redis_version"]), info.get("maxmemory_policy", "noeviction")
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        raise InputError(f"Redis {version}: expected 6.2 or newer, which has XAUTOCLAIM")
    if policy != "noeviction":
        raise InputError(f"Redis drops messages when its memory is full: maxmemory-policy {policy}: expected noeviction (CONFIG SET)")


def _check_hosts(urls: Sequence[str]) -> None:
    """Raise `InputError` unless a worker host answers at each address and knows this process's token."""
    if not urls:
        raise InputError(f"[redis] workers: expected the addresses of worker hosts, ['http://HOST:PORT'], here or in {WORKERS}")
    for url in urls:
        try:
            urlopen(Request(f"{url}/health", headers={SECRET: os.environ.get(TOKEN, "")}), timeout=CONNECT_S).close()
        except OSError as error:
            if getattr(error, "code", None) == 401:
                raise InputError(
                    f"worker host {url}: expected its token in {TOKEN}, which is {'wrong' if os.environ.get(TOKEN) else 'not set'}"
                ) from error
            raise InputError(f"worker host {url}: {error}: start fsd-redis-worker there, or correct [redis] workers") from error

"""Makes and removes an app: a record of it, its streams, and its bucket if it has one. Worker hosts run already."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any
from urllib.request import Request, urlopen

from fsd_core.common.fields import read
from fsd_core.driver import Resources
from fsd_core.errors import InputError
from fsd_core.providers.app_name import check_app, check_size
from fsd_core.providers.environment import from_record, to_environment
from fsd_core.providers.requests import Requests
from fsd_core.providers.settings import texts
from fsd_redis import PROVIDER
from fsd_redis.client import CONNECT_S, DENIED, classify, client, name
from fsd_redis.invoke import SECRET
from fsd_redis.messages import queue
from fsd_redis.objects import MARK
from fsd_redis.settings import ADDRESS, HOSTS, TOKEN, URL, WORKERS, Settings

_MAKE = "for _, queue in ipairs(KEYS) do redis.pcall('XGROUP', 'CREATE', queue, 'fsd', '0', 'MKSTREAM') end"  # does nothing to a queue


class RedisProvisioner:
    """Implements `fsd_core.driver.Provisioner`."""

    def __init__(self, table: Mapping[str, object]) -> None:
        self._settings = read(Settings, table, "[redis] ")
        if not (self._settings.url or os.environ.get(URL)):
            from fsd_redis.harness import here

            here()
        self._url = ADDRESS.check(self._settings.url or os.environ[URL], f"{URL} = ")
        self._workers = self._settings.workers or HOSTS.check([*filter(None, os.environ.get(WORKERS, "").split(","))], f"{WORKERS} = ")

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make what is missing. Raises `InputError` if Redis or a worker host cannot be used as it is set up."""
        check_size(ranks, slots)
        with self._asking(app) as ask:
            _check(ask(lambda redis: redis.info("memory")), self._workers)
            had = self._read(ask, app) or Resources(app, 0, 0)
            names = texts(self._settings, ("memory_mb", "timeout_s", "concurrency", "lease_s"))
            bucket = f"{self._settings.bucket}-{app}" if self._settings.bucket else ""
            names |= {"url": self._url, "workers": ",".join(self._workers), "bucket": had.names.get("bucket", bucket)}
            names["region"] = self._settings.region if names["bucket"] else ""
            if names["bucket"]:
                from fsd_redis.bucket import make

                make(names)
            made = Resources(app, max(ranks, had.ranks), max(slots, had.slots), names)
            queues = [queue(app, slot, rank) for slot in range(made.slots) for rank in range(made.ranks)]
            ask(lambda redis: redis.eval(_MAKE, len(queues), *queues))
            ask(lambda redis: redis.set(name(app, MARK), to_environment(made)))
            return made

    def find(self, app: str) -> Resources | None:
        """The app as `ensure` made it, or None."""
        with self._asking(app) as ask:
            return self._read(ask, app)

    def sweep(self, app: str) -> Sequence[str]:
        """Do nothing: if a call was interrupted, the next `ensure` uses what it made."""
        return []

    def destroy(self, app: str) -> Sequence[str]:
        """Remove the bucket, then the record, so that workers can make no new keys, then all keys."""
        with self._asking(app) as ask:
            removed = []
            if (had := self._read(ask, app)) and had.names["bucket"]:
                from fsd_redis.bucket import remove

                removed.append(remove(had))
            removed += [f"app {app}"] * ask(lambda redis: redis.delete(name(app, MARK)))
            keys = ask(lambda redis: sum(redis.delete(key) for key in redis.scan_iter(name(app, "*"), count=1000)))
            return removed + ([f"{keys} queues and objects"] if keys else [])

    @staticmethod
    def _read(ask: Any, app: str) -> Resources | None:
        found = ask(lambda redis: redis.get(name(app, MARK)))
        return from_record(found.decode(), app, f"the key {name(app, MARK)}") if found else None

    @contextmanager
    def _asking(self, app: str) -> Iterator[Any]:
        """Gives the block a function that calls a request with Redis's client, and calls it again after a transient error.

        Other errors become errors for people.
        """
        check_app(app)
        with Requests(classify, PROVIDER.advice, DENIED) as requests, closing(client(self._url)) as redis:
            yield lambda request: requests.repeat(f"Redis at {self._url}", lambda: request(redis))


def _check(info: Mapping[str, object], hosts: Sequence[str]) -> None:
    """Raise `InputError` if Redis may drop messages, or if a worker host does not answer or does not know the token."""
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        raise InputError(f"Redis drops messages when its memory is full: maxmemory-policy {policy}: expected noeviction (CONFIG SET)")
    if not hosts:
        raise InputError(f"[redis] workers: expected the addresses of worker hosts, ['http://HOST:PORT'], here or in {WORKERS}")
    for url in hosts:
        try:
            urlopen(Request(url, headers={SECRET: os.environ.get(TOKEN, "")}), timeout=CONNECT_S).close()
        except OSError as error:
            what = f"set {TOKEN} to the secret of the host" if getattr(error, "code", 0) == 401 else "start fsd-redis-worker there"
            raise InputError(f"worker host {url}: {error}: {what}, or correct [redis] workers") from error

"""The Python client etcd3, unchanged but for the address."""
import sys
import threading

import etcd3

host, port = sys.argv[1].split(":")


def client():
    return etcd3.client(host=host, port=int(port))


one, two = client(), client()

# Keys.
one.put("k/1", "a")
one.put("k/2", "b")
assert one.get("k/1")[0] == b"a"
assert [v for v, _ in one.get_prefix("k/")] == [b"a", b"b"]
assert one.get("nothing") == (None, None)
assert one.delete("k/1") and not one.delete("k/1")

# Transactions.
ok, answers = one.transaction(
    compare=[one.transactions.value("k/2") == "b", one.transactions.version("new") == 0],
    success=[one.transactions.put("new", "1"), one.transactions.get("k/2")],
    failure=[],
)
assert ok and answers[1][0][0] == b"b", (ok, answers)
assert one.replace("k/2", "b", "c") and not one.replace("k/2", "b", "d")
assert not one.put_if_not_exists("new", "2")

# A watch, cancelled by its client.
events, cancel = one.watch_prefix("w/")
two.put("w/1", "x")
two.delete("w/1")
seen = [next(events), next(events)]
assert [type(e).__name__ for e in seen] == ["PutEvent", "DeleteEvent"], seen
cancel()
# From a revision of the past.
start = one.get("k/2")[1].mod_revision
events, cancel = one.watch("k/2", start_revision=start)
assert next(events).value == b"c"
cancel()

# A lease, its keys, and that it goes.
lease = one.lease(60)
one.put("leased", "x", lease=lease)
assert lease.granted_ttl == 60 and lease.keys == [b"leased"], lease.keys
assert one.get("leased")[1].lease_id == lease.id
lease.refresh()
lease.revoke()
assert one.get("leased")[0] is None

# A lock that one holds and another takes over. The library's own waiting does not work with Debian's tenacity, so the
# other waits for what the library itself waits for.
first = one.lock("job", ttl=30)
assert first.acquire(timeout=5) and first.is_acquired()
second = two.lock("job", ttl=30)
assert two.get(second.key)[1].lease_id == first.lease.id
events, cancel = two.watch(second.key)
threading.Thread(target=first.release).start()
assert type(next(events)).__name__ == "DeleteEvent"
cancel()
assert second.acquire(timeout=5) and not first.is_acquired()
assert second.release()

# Maintenance that is for everybody.
assert one.status().version.startswith("3.")
assert list(one.members)
print("done")

"""docker-py (Debian's python3-docker) against the socket that DOCKER_HOST names: what programs do with it."""
import io
import tarfile
import threading

import docker

client = docker.from_env()
assert client.ping()
assert client.version()["ApiVersion"] == "1.51"
assert client.info()["Swarm"]["LocalNodeState"] == "inactive"

# Events are heard while things happen.
heard = []
events = client.events(decode=True, filters={"type": "container"})


def listen():
    for event in events:
        heard.append(event["Action"])
        if event["Action"] == "destroy":
            return


listener = threading.Thread(target=listen)
listener.start()

assert client.containers.run("bb", ["echo", "hello"], remove=True) == b"hello\n"
listener.join(60)
assert not listener.is_alive()
for action in ["create", "start", "die", "destroy"]:
    assert action in heard, heard
events.close()

try:
    client.containers.run("bb", ["sh", "-c", "echo no >&2; exit 3"], remove=True)
    raise AssertionError("it failed, and that was not told")
except docker.errors.ContainerError as error:
    assert error.exit_status == 3 and error.stderr == b"no\n", error

network = client.networks.create("back", driver="bridge", labels={"a": "b"})
volume = client.volumes.create("data")
web = client.containers.run(
    "bb",
    ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"],
    name="web",
    detach=True,
    environment={"A": "b"},
    labels={"tier": "front"},
    mem_limit="64m",
    nano_cpus=500_000_000,
    network="back",
    ports={"80/tcp": 8080},
    volumes={"data": {"bind": "/data", "mode": "rw"}},
    restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
    healthcheck={"test": ["CMD", "true"], "interval": 1_000_000_000},
)
assert web.status == "created" and web.name == "web"
web.reload()
assert web.status == "running", web.status
assert web.attrs["HostConfig"]["Memory"] == 64 << 20
assert web.ports["80/tcp"] == [{"HostIp": "0.0.0.0", "HostPort": "8080"}], web.ports
assert [c.name for c in client.containers.list(filters={"label": "tier=front"})] == ["web"]
for line in web.logs(stream=True, follow=True, stderr=False):
    assert line == b"out\n", line
    break
assert web.logs(stdout=False) == b"err\n"
code, output = web.exec_run(["sh", "-c", "echo $A; echo e >&2; exit 5"], demux=True)
assert (code, output) == (5, (b"b\n", b"e\n")), (code, output)
code, lines = web.exec_run(["echo", "streamed"], stream=True)
assert b"".join(lines) == b"streamed\n"
stats = web.stats(stream=False)
assert stats["memory_stats"]["limit"] == 64 << 20, stats["memory_stats"]
assert next(web.stats(decode=True))["name"] == "/web"
assert "sleep 1000" in str(web.top()["Processes"])

# Files in and out.
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w") as tar:
    entry = tarfile.TarInfo("note")
    entry.size = 4
    tar.addfile(entry, io.BytesIO(b"text"))
assert web.put_archive("/data", packed.getvalue())
chunks, stat = web.get_archive("/data/note")
assert stat["name"] == "note" and stat["size"] == 4, stat
with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
    assert tar.extractfile("note").read() == b"text"
assert web.exec_run("cat /data/note").output == b"text"
web.exec_run("touch /new")
assert {"Path": "/new", "Kind": 1} in web.diff(), web.diff()

# Its life.
web.pause()
web.reload()
assert web.status == "paused"
web.unpause()
web.update(mem_limit="128m", memswap_limit="256m")
web.reload()
assert web.attrs["HostConfig"]["Memory"] == 128 << 20
image = web.commit("made", "1", changes=["CMD [\"cat\", \"/new\"]"])
assert client.containers.run("made:1", remove=True) == b""
web.restart(timeout=0)
web.rename("shop")
web.stop(timeout=0)
assert web.wait()["StatusCode"] == 137
network.reload()
network.disconnect("shop", force=True)
web.remove()
network.remove()
volume.remove()

# Input through an attached socket.
cat = client.containers.create("bb", ["cat"], stdin_open=True)
socket = cat.attach_socket(params={"stdin": 1, "stream": 1})
cat.start()
socket._sock.sendall(b"through\n")
socket._sock.shutdown(1)
socket.close()
assert cat.wait()["StatusCode"] == 0
assert cat.logs() == b"through\n"
cat.remove()

# Images.
saved = b"".join(client.images.get("bb").save(named=True))
client.images.remove("made:1")
loaded = client.images.load(saved)
assert loaded[0].tags == ["bb:latest"], loaded
client.images.get("bb").tag("other", "2")
assert client.images.get("other:2").history()
client.images.remove("other:2")
for missing in [
    lambda: client.images.get("nope"),
    lambda: client.containers.get("nope"),
    lambda: client.volumes.get("nope"),
    lambda: client.networks.get("nope"),
]:
    try:
        missing()
        raise AssertionError("it is not there")
    except docker.errors.NotFound:
        pass
# Builds.
script = io.BytesIO(b"FROM bb\nARG W\nRUN echo built with $W > /out\nCMD cat /out\n")
image, log = client.images.build(fileobj=script, tag="built:1", buildargs={"W": "docker-py"}, rm=True)
assert any("Successfully built" in line.get("stream", "") for line in log)
assert client.containers.run("built:1", remove=True) == b"built with docker-py\n"
try:
    client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUN exit 9\n"))
    raise AssertionError("it was built")
except docker.errors.BuildError as error:
    assert "code: 9" in str(error), error
client.images.remove(image.id, force=True)

try:
    client.services.list()
    raise AssertionError("there is no swarm")
except docker.errors.APIError as error:
    assert error.status_code == 503, error
print("done")

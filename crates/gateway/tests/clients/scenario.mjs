// The Node client etcd3, unchanged but for the address.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [address, modules] = process.argv.slice(2);
const { Etcd3 } = createRequire(`${modules}/`)("etcd3");
const one = new Etcd3({ hosts: `http://${address}` });
const two = new Etcd3({ hosts: `http://${address}` });

// Keys.
await one.put("n/1").value("a");
await one.put("n/2").value("b");
assert.equal(await one.get("n/1").string(), "a");
assert.deepEqual(await one.getAll().prefix("n/").strings(), { "n/1": "a", "n/2": "b" });
assert.equal(await one.get("nothing").string(), null);
assert.equal((await one.delete().key("n/1")).deleted, "1");

// Transactions.
const won = await one.if("n/2", "Value", "==", "b").and("n/3", "Create", "==", 0)
    .then(one.put("n/3").value("c")).else(one.get("n/2")).commit();
assert.equal(won.succeeded, true);
assert.equal(await one.get("n/3").string(), "c");

// A watch.
const watcher = await two.watch().prefix("nw/").create();
const seen = [];
const both = new Promise(resolve => {
    watcher.on("put", kv => seen.push(`put ${kv.key}`));
    watcher.on("delete", kv => { seen.push(`delete ${kv.key}`); resolve(); });
});
await one.put("nw/1").value("x");
await one.delete().key("nw/1");
await both;
assert.deepEqual(seen, ["put nw/1", "delete nw/1"]);
await watcher.cancel();

// A lease that is kept, and ends.
const lease = one.lease(30);
await lease.put("nleased").value("x");
await lease.keepaliveOnce();
assert.equal(await two.get("nleased").string(), "x");
await lease.revoke();
assert.equal(await two.get("nleased").string(), null);

// A lock: whoever comes second does not get it, then does.
const lock = await one.lock("njob").acquire();
await assert.rejects(two.lock("njob").acquire());
await lock.release();
await two.lock("njob").do(async () => {});

// An election with a follower that sees both leaders.
const mine = one.election("nboss"), others = two.election("nboss");
const observer = await others.observe();
const leaders = [];
const second = new Promise(resolve => observer.on("change", leader => {
    if (leader !== undefined) leaders.push(leader);
    if (leaders.includes("two")) resolve();
}));
const campaign = mine.campaign("one");
await new Promise((resolve, reject) => { campaign.on("elected", resolve); campaign.on("error", reject); });
const next = others.campaign("two");
const elected = new Promise((resolve, reject) => { next.on("elected", resolve); next.on("error", reject); });
await campaign.resign();
await elected;
await second;
assert.equal(leaders.at(-1), "two");
await observer.cancel();
await next.resign();
one.close();
two.close();
console.log("done");

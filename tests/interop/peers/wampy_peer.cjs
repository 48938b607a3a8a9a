// wampy.js as a process: node wampy_peer.cjs ORDERS.
//
// What the orders hold and what is printed: tests/interop/clients.py. NODE_PATH names where it stands.

"use strict";

const fs = require("fs");
const { Wampy } = require("wampy");
const { JsonSerializer } = require("wampy/JsonSerializer.js");
const { MsgpackSerializer } = require("wampy/MsgpackSerializer.js");
const { CborSerializer } = require("wampy/CborSerializer.js");
const cryptosign = require("wampy/cryptosign.js");
const WebSocket = require("ws");

const orders = JSON.parse(process.argv[2]);
const serializers = { json: JsonSerializer, msgpack: MsgpackSerializer, cbor: CborSerializer };

// In JSON binary goes by WAMP's convention, which this client leaves to its user.
const packed = (data) => orders.serializer === "json" ? "\0" + data.toString("base64") : data;
const unpacked = (data) => typeof data === "string"
    ? Buffer.from(data.slice(1), "base64")
    : Buffer.from(data);

const wampy = new Wampy(orders.url, {
    realm: "cumulus",
    ws: WebSocket,
    serializer: new serializers[orders.serializer](),
    authid: orders.authid,
    authmethods: [orders.method],
    authextra: orders.method === "cryptosign" ? { pubkey: orders.public_key } : {},
    onChallenge: orders.method === "cryptosign" ? cryptosign.sign(orders.secret) : () => orders.secret,
    autoReconnect: false,
});

const ask = async (procedure, kwargs) => (await wampy.call(procedure, kwargs)).argsDict;

async function look() {
    const details = await wampy.connect();
    const found = {
        authid: details.authid,
        authrole: details.authrole,
        authmethod: details.authmethod,
    };
    try {
        await ask("cumulus.job.get", { job_id: "nothing" });
    } catch (error) {
        found.error = { uri: error.errorUri, args: error.argsList, kwargs: error.argsDict };
    }
    for (const name of ["follow", "stop"]) {
        const data = fs.readFileSync(orders[name].path);
        const { sha256, size_bytes } = orders[name].spec.package;
        await ask("cumulus.package.check", { sha256, size_bytes });
        await ask("cumulus.package.put", { sha256, offset: 0, data: packed(data) });
        await ask("cumulus.package.commit", { sha256, size_bytes });
    }
    found.followed = await follow();
    found.stopped = await stop();
    await wampy.disconnect();
    return found;
}

function submit(spec, progressed) {
    const options = { progress_callback: (progress) => progressed(progress.argsDict) };
    return wampy.call("cumulus.job.submit", { spec }, options).then((end) => end.argsDict);
}

async function follow() {
    const kinds = [];
    const frames = [];
    const end = await submit(orders.follow.spec, (progress) => {
        kinds.push(progress.event);
        if (progress.frames !== undefined) {
            frames.push(unpacked(progress.frames));
        }
    });
    return {
        kinds,
        frames: Buffer.concat(frames).toString("hex"),
        end: end.event,
        status: end.job.status,
    };
}

async function stop() {
    const topic = [];
    let tell;
    const told = new Promise((resolve) => { tell = resolve; });
    let accept;
    const accepted = new Promise((resolve) => { accept = resolve; });
    const ending = submit(orders.stop.spec, (progress) => {
        if (progress.event === "accepted") {
            accept(progress.job.job_id);
        }
    });
    const jobId = await accepted;
    await wampy.subscribe(`cumulus.job.${jobId}.status`, (event) => {
        topic.push(event.argsDict.job.status);
        if (event.argsDict.job.status === "cancelled") {
            tell();
        }
    });
    // A second one that follows it, and stops following.
    const following = wampy.call("cumulus.job.attach", { job_id: jobId }, { progress_callback: () => {} });
    const request = wampy.getOpStatus().reqId;
    const stopped = following.then(() => "answered", (error) => error.errorUri);
    await ask("cumulus.job.get", { job_id: jobId });
    wampy.cancel(request);
    if (await stopped !== "wamp.error.canceled") {
        throw new Error(`a cancelled call ended otherwise: ${await stopped}`);
    }
    const answer = await ask("cumulus.job.cancel", { job_id: jobId });
    const end = await ending;
    await told;
    return { cancelled: answer.cancelled, status: end.job.status, topic: topic[topic.length - 1] };
}

look().then(
    (found) => console.log(JSON.stringify(found)),
    (error) => {
        console.error(error);
        process.exit(1);
    },
);

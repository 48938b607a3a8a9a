// The npm client `autobahn` as a process: node autobahn_peer.cjs ORDERS.
//
// What the orders hold and what is printed: tests/interop/clients.py. NODE_PATH names where it stands.

"use strict";

const fs = require("fs");
// Node.js has one of its own since 22 only; before Autobahn looks for it.
globalThis.WebSocket ??= require("ws");
const autobahn = require("autobahn");

const orders = JSON.parse(process.argv[2]);
const serializers = {
    json: autobahn.serializer.JSONSerializer,
    msgpack: autobahn.serializer.MsgpackSerializer,
    cbor: autobahn.serializer.CBORSerializer,
};
const key = orders.method === "cryptosign"
    ? autobahn.nacl.sign.keyPair.fromSeed(autobahn.util.htob(orders.secret))
    : null;

// In JSON binary goes by WAMP's convention, which this client leaves to its user.
const packed = (data) => orders.serializer === "json" ? "\0" + data.toString("base64") : data;
const unpacked = (data) => typeof data === "string"
    ? Buffer.from(data.slice(1), "base64")
    : Buffer.from(data);

const connection = new autobahn.Connection({
    url: orders.url,
    realm: "cumulus",
    serializers: [new serializers[orders.serializer]()],
    authid: orders.authid,
    authmethods: [orders.method],
    authextra: key ? { pubkey: autobahn.auth_cryptosign.public_key(key), channel_binding: null } : {},
    onchallenge: (session, method, extra) => key
        ? autobahn.auth_cryptosign.sign_challenge(key, extra)
        : orders.secret,
    max_retries: 0,
});

async function look(session, details) {
    const ask = async (procedure, kwargs) => (await session.call(procedure, [], kwargs)).kwargs;
    const found = {
        authid: details.authid,
        authrole: details.authrole,
        authmethod: details.authmethod,
    };
    try {
        await ask("cumulus.job.get", { job_id: "nothing" });
    } catch (error) {
        found.error = { uri: error.error, args: error.args, kwargs: error.kwargs };
    }
    for (const name of ["follow", "stop"]) {
        const data = fs.readFileSync(orders[name].path);
        const { sha256, size_bytes } = orders[name].spec.package;
        await ask("cumulus.package.check", { sha256, size_bytes });
        await ask("cumulus.package.put", { sha256, offset: 0, data: packed(data) });
        await ask("cumulus.package.commit", { sha256, size_bytes });
    }
    found.followed = await follow(session);
    found.stopped = await stop(session, ask);
    return found;
}

function submit(session, spec, progressed) {
    return session.call("cumulus.job.submit", [], { spec }, { receive_progress: true }).then(
        (end) => end.kwargs,
        (error) => { throw error; },
        (progress) => progressed(progress.kwargs),
    );
}

async function follow(session) {
    const kinds = [];
    const frames = [];
    const end = await submit(session, orders.follow.spec, (progress) => {
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

async function stop(session, ask) {
    const topic = [];
    let tell;
    const told = new Promise((resolve) => { tell = resolve; });
    let accept;
    const accepted = new Promise((resolve) => { accept = resolve; });
    const ending = submit(session, orders.stop.spec, (progress) => {
        if (progress.event === "accepted") {
            accept(progress.job.job_id);
        }
    });
    const jobId = await accepted;
    await session.subscribe(`cumulus.job.${jobId}.status`, (args, kwargs) => {
        topic.push(kwargs.job.status);
        if (kwargs.job.status === "cancelled") {
            tell();
        }
    });
    // A second one that follows it, and stops following.
    const following = session.call("cumulus.job.attach", [], { job_id: jobId }, { receive_progress: true });
    const stopped = following.then(() => "answered", (error) => error.error);
    await ask("cumulus.job.get", { job_id: jobId });
    // In the other modes this client forgets the call at once, and takes the ERROR that ends it, which
    // the specification wants, for the router's mistake.
    following.cancel({ mode: "kill" });
    if (await stopped !== "wamp.error.canceled") {
        throw new Error(`a cancelled call ended otherwise: ${await stopped}`);
    }
    const answer = await ask("cumulus.job.cancel", { job_id: jobId });
    const end = await ending;
    await told;
    return { cancelled: answer.cancelled, status: end.job.status, topic: topic[topic.length - 1] };
}

connection.onopen = (session, details) => {
    look(session, details).then(
        (found) => {
            console.log(JSON.stringify(found));
            connection.close();
        },
        (error) => {
            console.error(error);
            process.exit(1);
        },
    );
};
connection.onclose = (reason, details) => {
    if (reason !== "closed") {
        console.error(`refused: ${reason} ${JSON.stringify(details)}`);
        process.exit(1);
    }
    return true;
};
connection.open();

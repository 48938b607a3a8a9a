// The page's one WAMP session: `wamp.2.json` over the daemon's /ws, coming back by itself.

const REALM = "cumulus";
const HELLO = 1, WELCOME = 2, ABORT = 3, CHALLENGE = 4, AUTHENTICATE = 5, GOODBYE = 6, ERROR = 8;
const SUBSCRIBE = 32, SUBSCRIBED = 33, UNSUBSCRIBE = 34, EVENT = 36;
const CALL = 48, CANCEL = 49, RESULT = 50;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
// A call without progress that gets no answer for so long: the connection is dead, not slow.
const ANSWER_MS = 30_000;
// From the first byte to WELCOME.
const OPENING_MS = 15_000;
// Reasons after which coming back with the same token is of no use.
const REFUSALS = ["wamp.error.not_authenticated", "wamp.error.no_auth_method"];

// What a call ends with. `code`: of the daemon's errors ("not_found", ...), or "disconnected",
// "timeout", "aborted".
export class WampError extends Error {
  constructor(code, message, fields = {}) {
    super(message);
    this.name = "WampError";
    this.code = code;
    this.status = fields.status ?? null;
    this.jobId = fields.job_id ?? null;
    this.details = fields.details ?? {};
    this.hint = fields.hint ?? null;
  }
}

// The bytes that WAMP's JSON carries as "\u0000" and base64; null for any other text.
export function decodeBytes(text) {
  if (typeof text !== "string" || text.charCodeAt(0) !== 0) return null;
  const packed = atob(text.slice(1));
  const bytes = new Uint8Array(packed.length);
  for (let index = 0; index < packed.length; index += 1) bytes[index] = packed.charCodeAt(index);
  return bytes;
}

// Connects for as long as it takes. `url`: ws(s)://host/ws. `token`: null where none is needed.
export function connect({url, token = null}) {
  return new Connection(url, token);
}

// `state` is one of
//   "connecting", "open",
//   "waiting"  it comes back by itself at `retryAt` (ms since 1970; `reason` says why),
//   "refused"  the daemon doesn't take this token (`reason` in its words; `wasOpen`: it did before),
//   "closed"   by close().
export class Connection {
  constructor(url, token) {
    this.state = "connecting";
    this.reason = "";
    this.retryAt = null;
    this.wasOpen = false;
    this.role = null;
    this.authid = null;
    this._url = url;
    this._token = token;
    this._watchers = new Set();
    this._calls = new Map(); // request -> {resolve, reject, onProgress, timer}
    this._topics = new Map(); // topic -> {handlers: Set, subscription, request}
    this._request = 0;
    this._pauseMs = FIRST_PAUSE_MS;
    this._socket = null;
    this._timer = null;
    this._online = () => this.retryNow();
    addEventListener("online", this._online);
    this._open();
  }

  // `handler(connection)` on every change of state; returns how to end that.
  onState(handler) {
    this._watchers.add(handler);
    return () => this._watchers.delete(handler);
  }

  // The keyword arguments of the answer. `onProgress(kwargs)` asks for progressive results;
  // aborting `signal` cancels the call. Rejects with WampError.
  call(uri, kwargs = {}, {onProgress = null, signal = null} = {}) {
    return new Promise((resolve, reject) => {
      if (this.state !== "open") {
        reject(new WampError("disconnected", "There is no connection to the daemon now"));
        return;
      }
      if (signal?.aborted) {
        reject(new WampError("aborted", "The call was given up"));
        return;
      }
      const request = this._nextRequest();
      const abort = () => {
        if (!this._settle(request)) return;
        this._send([CANCEL, request, {mode: "killnowait"}]);
        reject(new WampError("aborted", "The call was given up"));
      };
      const timer = onProgress ? null : setTimeout(() => {
        if (!this._settle(request)) return;
        reject(new WampError("timeout", `${uri} was not answered in ${ANSWER_MS / 1000} s`));
        this._drop("the daemon does not answer");
      }, ANSWER_MS);
      signal?.addEventListener("abort", abort, {once: true});
      const off = () => signal?.removeEventListener("abort", abort);
      this._calls.set(request, {resolve, reject, onProgress, timer, off});
      this._send([CALL, request, onProgress ? {receive_progress: true} : {}, uri, [], kwargs]);
    });
  }

  // `handler(kwargs, details)` for each event; kept over reconnections. Returns how to end it.
  subscribe(topic, handler) {
    let entry = this._topics.get(topic);
    if (!entry) {
      entry = {handlers: new Set(), subscription: null, request: null};
      this._topics.set(topic, entry);
      if (this.state === "open") this._subscribe(topic, entry);
    }
    entry.handlers.add(handler);
    return () => {
      entry.handlers.delete(handler);
      if (entry.handlers.size || this._topics.get(topic) !== entry) return;
      this._topics.delete(topic);
      if (this.state === "open" && entry.subscription !== null) {
        this._send([UNSUBSCRIBE, this._nextRequest(), entry.subscription]);
      }
    };
  }

  // Tries at once, where it waits.
  retryNow() {
    if (this.state !== "waiting") return;
    clearTimeout(this._timer);
    this._open();
  }

  // Ends it for good.
  close() {
    removeEventListener("online", this._online);
    clearTimeout(this._timer);
    const socket = this._socket;
    this._socket = null;
    this._become("closed");
    this._failCalls("The connection was closed");
    if (socket) {
      if (socket.readyState === WebSocket.OPEN) {
        socket.send(JSON.stringify([GOODBYE, {}, "wamp.close.close_realm"]));
      }
      socket.close();
    }
  }

  _open() {
    this._become("connecting");
    const socket = new WebSocket(this._url, ["wamp.2.json"]);
    this._socket = socket;
    this._timer = setTimeout(() => this._drop("the daemon does not answer"), OPENING_MS);
    socket.onopen = () => {
      const methods = this._token === null ? ["anonymous"] : ["ticket", "anonymous"];
      const features = {features: {progressive_call_results: true, call_canceling: true}};
      const roles = {caller: features, subscriber: {features: {}}};
      socket.send(JSON.stringify([HELLO, REALM, {roles, authmethods: methods, authid: "page"}]));
    };
    socket.onmessage = (event) => {
      if (socket === this._socket) this._receive(JSON.parse(event.data));
    };
    socket.onclose = (event) => {
      if (socket !== this._socket) return;
      this._lost(event.reason || "the connection to the daemon was lost");
    };
  }

  _receive(message) {
    switch (message[0]) {
      case CHALLENGE:
        this._send([AUTHENTICATE, this._token ?? "", {}]);
        break;
      case WELCOME:
        clearTimeout(this._timer);
        this.role = message[2].authrole;
        this.authid = message[2].authid;
        this.wasOpen = true;
        this._pauseMs = FIRST_PAUSE_MS;
        this._become("open");
        for (const [topic, entry] of this._topics) this._subscribe(topic, entry);
        break;
      case ABORT:
      case GOODBYE:
        this._ended(message[2], message[1]?.message ?? message[1]?.reason ?? message[2]);
        break;
      case RESULT:
        this._result(message);
        break;
      case ERROR:
        this._error(message);
        break;
      case SUBSCRIBED:
        for (const entry of this._topics.values()) {
          if (entry.request === message[1]) entry.subscription = message[2];
        }
        break;
      case EVENT:
        for (const entry of this._topics.values()) {
          if (entry.subscription !== message[1]) continue;
          for (const handler of [...entry.handlers]) handler(message[5] ?? {}, message[3] ?? {});
        }
        break;
      default: // UNSUBSCRIBED, and what a later router may add
        break;
    }
  }

  _result([, request, details, , kwargs]) {
    const call = this._calls.get(request);
    if (!call) return;
    if (details?.progress) {
      call.onProgress?.(kwargs ?? {});
    } else {
      this._settle(request);
      call.resolve(kwargs ?? {});
    }
  }

  _error([, kind, request, , uri, args, kwargs]) {
    if (kind !== CALL) return; // a topic that this role may not have: its view polls
    const call = this._calls.get(request);
    if (!call) return;
    this._settle(request);
    const code = kwargs?.code ?? String(uri).replace(/^(cumulus|wamp)\.error\./, "");
    call.reject(new WampError(code, String(args?.[0] ?? uri), kwargs ?? {}));
  }

  _subscribe(topic, entry) {
    entry.subscription = null;
    entry.request = this._nextRequest();
    this._send([SUBSCRIBE, entry.request, {}, topic]);
  }

  _ended(uri, text) {
    const socket = this._socket;
    if (!REFUSALS.includes(uri)) {
      this._drop(text);
      return;
    }
    this._socket = null;
    clearTimeout(this._timer);
    this.reason = text;
    this._become("refused");
    this._failCalls(text);
    socket.close();
  }

  _drop(reason) {
    const socket = this._socket;
    if (!socket) return;
    this._lost(reason);
    socket.close();
  }

  _lost(reason) {
    this._socket = null;
    clearTimeout(this._timer);
    const pauseMs = this._pauseMs * (0.8 + 0.4 * Math.random());
    this._pauseMs = Math.min(this._pauseMs * 2, LONGEST_PAUSE_MS);
    this.reason = reason;
    this.retryAt = Date.now() + pauseMs;
    this._timer = setTimeout(() => this._open(), pauseMs);
    this._become("waiting");
    this._failCalls(reason);
  }

  _failCalls(reason) {
    const calls = [...this._calls.keys()];
    for (const request of calls) {
      const call = this._calls.get(request);
      if (this._settle(request)) call.reject(new WampError("disconnected", reason));
    }
  }

  _settle(request) {
    const call = this._calls.get(request);
    if (!call) return false;
    this._calls.delete(request);
    clearTimeout(call.timer);
    call.off();
    return true;
  }

  _send(message) {
    if (this._socket?.readyState === WebSocket.OPEN) this._socket.send(JSON.stringify(message));
  }

  _nextRequest() {
    this._request += 1;
    return this._request;
  }

  _become(state) {
    this.state = state;
    if (state === "open") this._request = 0; // ids count from 1 in each session
    for (const handler of [...this._watchers]) handler(this);
  }
}

// Addresses in the hash, so that each view can be shared as a link: `#/jobs?state=failed`.

// "#/jobs/a%2Fb?x=1" -> {path: "/jobs/a%2Fb", parts: ["jobs", "a/b"], query: {x: "1"}}
export function parse(hash) {
  const text = hash.startsWith("#") ? hash.slice(1) : hash;
  const mark = text.indexOf("?");
  const path = (mark < 0 ? text : text.slice(0, mark)) || "/";
  const query = Object.fromEntries(new URLSearchParams(mark < 0 ? "" : text.slice(mark + 1)));
  return {path, parts: path.split("/").filter(Boolean).map(decoded), query};
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a stray % in an address that somebody typed
  }
}

// The link to a view: href(["jobs", id], {state: "failed"}). Empty values are left out.
export function href(parts, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const search = new URLSearchParams(given).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${search ? `?${search}` : ""}`;
}

// The parameters that a pattern like ["jobs", ":jobId"] finds in an address; null: it is another.
export function match(pattern, parts) {
  if (pattern.length !== parts.length) return null;
  const found = {};
  for (let index = 0; index < pattern.length; index += 1) {
    if (pattern[index].startsWith(":")) found[pattern[index].slice(1)] = parts[index];
    else if (pattern[index] !== parts[index]) return null;
  }
  return found;
}

// Calls `show({name, parameters, query}, isSameView)` now and whenever the address changes.
// `routes`: [[name, pattern]]. An unknown address is the view "missing".
export function start(routes, show) {
  let shown = null;
  const look = () => {
    const address = parse(location.hash);
    let here = {name: "missing", parameters: {}, query: address.query};
    for (const [name, pattern] of routes) {
      const parameters = match(pattern, address.parts);
      if (parameters) {
        here = {name, parameters, query: address.query};
        break;
      }
    }
    const key = JSON.stringify([here.name, here.parameters]);
    const isSameView = key === shown;
    shown = key;
    show(here, isSameView);
  };
  addEventListener("hashchange", look);
  look();
  return () => removeEventListener("hashchange", look);
}

// Changes the query of the address without a new entry in the history: filters while typing.
export function replaceQuery(query) {
  const {parts} = parse(location.hash);
  history.replaceState(null, "", href(parts, query));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

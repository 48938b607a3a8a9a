// Files of a job, fetched over HTTP with the session's token: a link can't carry one.

const TOKEN = "cumulus.token"; // where app.js keeps it
// Beyond that a browser's memory is no place for a file.
export const DOWNLOAD_MAX_BYTES = 256 * 1024 * 1024;

// What went wrong, with what to do about it.
export class DownloadFailed extends Error {
  constructor(message, hint = null) {
    super(message);
    this.name = "DownloadFailed";
    this.hint = hint;
  }
}

// The path of a job's resource: jobPath(id, "outputs", "a/b.txt").
export function jobPath(jobId, ...parts) {
  const rest = parts.flatMap((part) => part.split("/")).map(encodeURIComponent);
  return ["/api/jobs", encodeURIComponent(jobId), ...rest].join("/");
}

// What fetches an output by hand, for a POSIX shell: the name is the job's to choose, whatever it is.
export function downloadCommand(jobId, name) {
  const quoted = /^[\w./-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`;
  return `cumulus download ${name.startsWith("-") ? "-- " : ""}${jobId} ${quoted}`;
}

// Fetches `path` and has the browser save it as `name`. `byHand`: the command that does the same.
// `onBytes(count)` tells how much is there. Rejects with DownloadFailed.
export async function download(path, name, {byHand, signal, onBytes = () => {}}) {
  const tooLarge = () =>
    new DownloadFailed(
      `${name} is larger than the ${DOWNLOAD_MAX_BYTES / (1024 * 1024)} MiB that this page fetches`,
      `Fetch it with: ${byHand}`,
    );
  const token = sessionStorage.getItem(TOKEN);
  const headers = token === null ? {} : {Authorization: `Bearer ${token}`};
  const pieces = [];
  let size = 0;
  let type;
  try {
    const response = await fetch(path, {headers, signal});
    if (!response.ok) throw await refused(response, name);
    if (Number(response.headers.get("Content-Length") ?? 0) > DOWNLOAD_MAX_BYTES) throw tooLarge();
    type = response.headers.get("Content-Type");
    const reader = response.body.getReader();
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      size += value.length;
      if (size > DOWNLOAD_MAX_BYTES) {
        await reader.cancel();
        throw tooLarge();
      }
      pieces.push(value);
      onBytes(size);
    }
  } catch (error) {
    if (error instanceof DownloadFailed || error.name === "AbortError") throw error;
    throw new DownloadFailed(
      `${name} came only in part: ${error.message}`,
      `Try again, or fetch it with: ${byHand}`,
    );
  }
  save(new Blob(pieces, {type: type ?? "application/octet-stream"}), name);
}

async function refused(response, name) {
  const told = await response.json().catch(() => ({}));
  return new DownloadFailed(
    `${name}: ${told.message ?? `HTTP status ${response.status}`}`,
    told.hint ?? null,
  );
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name.slice(name.lastIndexOf("/") + 1);
  link.click();
  // The browser has begun to save it by then.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

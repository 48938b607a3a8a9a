// A job's JSON laid out to be read. Pure.
//
// The text is laid out as it is, not parsed and written anew: that would change numbers beyond a
// double's digits, and refuse the NaN that Python writes.

const INDENT = "  ";

// `text` with a line for each element, at most `maxChars` of it: `{text, isCut}`.
export function layOut(text, maxChars) {
  const pieces = [];
  let size = 0;
  let depth = 0;
  const put = (piece) => {
    pieces.push(piece);
    size += piece.length;
  };
  const newline = () => put(`\n${INDENT.repeat(Math.min(depth, 50))}`);
  let at = 0;
  while (at < text.length && size < maxChars) {
    const char = text[at];
    if (char === '"') {
      const end = stringEnd(text, at);
      put(text.slice(at, end));
      at = end;
    } else if (char === "{" || char === "[") {
      const close = char === "{" ? "}" : "]";
      const next = skipBlanks(text, at + 1);
      if (text[next] === close) {
        put(char + close);
        at = next + 1;
      } else {
        depth += 1;
        put(char);
        newline();
        at = next;
      }
    } else if (char === "}" || char === "]") {
      depth = Math.max(0, depth - 1);
      newline();
      put(char);
      at += 1;
    } else if (char === ",") {
      put(char);
      newline();
      at += 1;
    } else if (char === ":") {
      put(": ");
      at += 1;
    } else if (" \t\r\n".includes(char)) {
      at += 1;
    } else {
      put(char);
      at += 1;
    }
  }
  const whole = pieces.join("");
  return {text: whole.slice(0, maxChars), isCut: at < text.length || whole.length > maxChars};
}

function stringEnd(text, begin) {
  for (let at = begin + 1; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === '"') return at + 1;
  }
  return text.length;
}

function skipBlanks(text, begin) {
  let at = begin;
  while (at < text.length && " \t\r\n".includes(text[at])) at += 1;
  return at;
}

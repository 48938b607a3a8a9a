// The form that asks for a token. The token stays in this tab: sessionStorage, nowhere else.

import {h, fill} from "./dom.js";

// Shows the form. `reason`: why a token is asked for, in the daemon's words. `submit(token)`.
export function mountLogin(root, reason, submit) {
  const field = h("input", {
    type: "password", id: "token", name: "token", required: true, autocomplete: "current-password",
    spellcheck: "false", autocapitalize: "off", "aria-describedby": reason ? "login-reason" : null,
    "aria-invalid": reason ? "true" : null,
  });
  const send = (event) => {
    event.preventDefault();
    const token = field.value.trim();
    if (token) submit(token);
  };
  fill(root, h("form", {class: "login", onsubmit: send},
    h("h1", {}, "Sign in"),
    h("p", {}, "This daemon asks who you are. Enter a token that its operator made for you with ",
      h("code", {}, "cumulusd token create"), "."),
    reason && h("p", {id: "login-reason", class: "fault", role: "alert"}, reason),
    h("label", {for: "token"}, "Token"),
    field,
    h("button", {type: "submit", class: "primary"}, "Sign in"),
    h("p", {class: "hint"}, "It is kept in this tab only, and goes when you close it or sign out."),
  ));
  field.focus();
}

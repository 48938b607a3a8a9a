// Dark or light: as the system has it, until the reader says otherwise.

const KEY = "cumulus.theme";
const NEXT = {auto: "light", light: "dark", dark: "auto"};
const SIGNS = {auto: "◐", light: "☀", dark: "☾"};

// What was chosen last on this browser: "auto", "light" or "dark".
export function chosen() {
  const kept = localStorage.getItem(KEY);
  return kept in NEXT ? kept : "auto";
}

export function apply(theme) {
  localStorage.setItem(KEY, theme);
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

// Makes `button` go through the three of them.
export function control(button) {
  const show = () => {
    const theme = chosen();
    button.textContent = SIGNS[theme];
    button.setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system" : theme}`);
    button.title = button.getAttribute("aria-label");
  };
  button.addEventListener("click", () => {
    apply(NEXT[chosen()]);
    show();
  });
  show();
}

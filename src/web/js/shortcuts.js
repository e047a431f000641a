// Keys that work anywhere. Single letters only outside of fields and dialogs.
import { byId, isTyping } from "./dom.js";
import { showHelp } from "./dialogs.js";
import { cancelRunning } from "./stage.js";

const letters = {
    "p": () => byId("prompt").focus(),
    "/": () => byId("search").focus(),
    "?": showHelp,
    "X": cancelRunning,
};

export function startShortcuts(generate) {
    addEventListener("keydown", (event) => {
        if (byId("app").hidden || document.querySelector("dialog[open]"))
            return;
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            generate();
            return;
        }
        if (event.key === "Escape" && isTyping(event.target)) {
            event.target.blur();
            return;
        }
        if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || !letters[event.key])
            return;
        event.preventDefault();
        letters[event.key]();
    });
}

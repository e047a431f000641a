// Questions, and the sheet of shortcuts.
import { byId, make } from "./dom.js";
import { t } from "./i18n.js";

const mac = /Mac|iPhone|iPad/.test(navigator.platform);
export const submitKeys = mac ? "⌘ ↵" : "Ctrl ↵";

/** Asks before something is deleted; true: delete it. Escape is a no. */
export function confirmDelete(text) {
    const dialog = byId("confirm");

    byId("confirm-text").textContent = text;
    dialog.returnValue = "";
    dialog.showModal();
    byId("confirm-no").focus();
    return new Promise((resolve) => {
        dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    });
}

const groups = () => [
    [
        "help.anywhere",
        [
            [submitKeys, "help.generate"],
            ["P", "help.prompt"],
            ["/", "help.search"],
            ["Shift X", "help.cancel"],
            ["?", "help.help"],
        ],
    ],
    [
        "help.grid",
        [
            ["← → ↑ ↓", "help.move"],
            ["↵", "help.enter"],
            [".", "star"],
        ],
    ],
    [
        "help.picture",
        [
            ["← →", "help.neighbours"],
            ["U", "details.use"],
            ["I", "details.source"],
            ["D", "details.download"],
            [".", "star"],
            ["Del", "delete"],
            ["Esc", "help.close"],
        ],
    ],
];

export function showHelp() {
    byId("help-keys").replaceChildren(
        ...groups().map(([title, keys]) =>
            make("section", {}, make("h3", {}, t(title)),
                make("dl", {}, ...keys.map(([key, what]) =>
                    make("div", {}, make("dt", {}, make("kbd", {}, key)), make("dd", {}, t(what)))))),
        ),
    );
    byId("help").showModal();
}

export function startDialogs() {
    byId("confirm-no").addEventListener("click", () => byId("confirm").close(""));
    byId("confirm-yes").addEventListener("click", () => byId("confirm").close("yes"));
    byId("help-open").addEventListener("click", showHelp);
    for (const dialog of document.querySelectorAll("dialog.sheet:not(.login)"))
        dialog.addEventListener("click", (event) => {
            if (event.target === dialog)
                dialog.close("");
        });
}

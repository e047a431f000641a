// Starts the page: texts, session, model, stream, history, in this order.
import { readModel, whenLoginNeeded } from "./api.js";
import { startBanner } from "./banner.js";
import { startDetails } from "./details.js";
import { startDialogs } from "./dialogs.js";
import { byId } from "./dom.js";
import { forgetFailure, forgetForm, setMayGenerate, setModel, startForm } from "./form.js";
import { clearHistory, loadHistory, startHistory } from "./history.js";
import { startLanguage, switchLanguage, t, withLanguage } from "./i18n.js";
import { jobs } from "./jobs.js";
import { live } from "./live.js";
import { remember } from "./memory.js";
import { askLogin, startSession } from "./session.js";
import { startShortcuts } from "./shortcuts.js";
import { setExamples, startStage } from "./stage.js";

function startSwitches() {
    for (const id of ["language", "login-language"])
        byId(id).addEventListener("click", switchLanguage);
    withLanguage(() => {
        const other = document.documentElement.lang === "en" ? "zh" : "en";

        for (const id of ["language", "login-language"]) {
            byId(id).textContent = t("language.other");
            byId(id).lang = other;
        }
    });
    byId("theme").addEventListener("click", () => {
        const root = document.documentElement;
        const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;

        root.dataset.theme = isDark ? "light" : "dark";
        remember("theme", root.dataset.theme);
    });
}

async function loadModel() {
    const model = await readModel().catch(() => null);

    if (!model)
        return;
    byId("model").textContent = [model.model, model.variant, model.device].filter(Boolean).join(" · ");
    setModel(model);
    setExamples(model.model);
}

async function begin(session) {
    byId("app").hidden = false;
    setMayGenerate(session.scopes.includes("generate"));
    live.start();
    await Promise.all([loadModel(), loadHistory()]);
    if (!document.querySelector("dialog[open]") && matchMedia("(min-width: 900px)").matches)
        byId("prompt").focus({ preventScroll: true });
}

function end() {
    live.forget();
    clearHistory();
    jobs.clear();
    byId("model").textContent = "";
}

function loadActive() {
    for (const job of jobs.active())
        jobs.load(job.id);
}

startLanguage();
startSwitches();
startDialogs();
startStage();
startHistory();
startDetails();
startShortcuts(startForm());
live.addEventListener("begin", loadActive);
live.addEventListener("gap", () => {
    loadActive();
    loadHistory();
});
live.addEventListener("login", () => {
    end();
    askLogin();
});
whenLoginNeeded(() => {
    end();
    askLogin();
});
startBanner(() => {
    forgetFailure();
    if (!byId("app").hidden)
        loadModel();
});
startSession(begin, () => {
    end();
    forgetForm();
});

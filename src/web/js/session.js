// The login: asked for when the session says so, and when it ends.
import { login, logout, readSession } from "./api.js";
import { byId } from "./dom.js";
import { problem } from "./i18n.js";

let onLogin = () => {};

function mode() {
    return document.querySelector("[name=login-mode]:checked").value;
}

function showMode() {
    for (const field of byId("login-form").querySelectorAll("[data-mode]"))
        field.hidden = field.dataset.mode !== mode();
    byId("login-error").textContent = "";
}

export function askLogin() {
    const dialog = byId("login");

    byId("app").hidden = true;
    byId("logout").hidden = true;
    if (dialog.open)
        return;
    dialog.showModal();
    byId(mode() === "key" ? "login-key" : "login-user").focus();
}

function forgetTyped() {
    for (const id of ["login-key", "login-user", "login-password"])
        byId(id).value = "";
}

/** Shows what the session allows; false: nobody is logged in, and somebody has to be. */
function take(session) {
    byId("logout").hidden = !session.canLogOut;
    byId("login-modes").hidden = !session.hasPasswords;
    return session.authenticated;
}

function typed() {
    if (mode() === "key")
        return { key: byId("login-key").value.trim() };
    return { user: byId("login-user").value, password: byId("login-password").value };
}

async function submit(event) {
    event.preventDefault();
    byId("login-error").textContent = "";
    try {
        await login(typed());
        const session = await readSession();
        if (!take(session))
            return;
        forgetTyped();
        byId("login").close();
        onLogin(session);
    } catch (error) {
        byId("login-error").textContent = problem(error);
    }
}

/** A link of the server's may bring the key: "/#key=..". The part after # never goes over the net;
 *  it leaves the address at once. */
async function loginByLink() {
    const key = new URLSearchParams(location.hash.slice(1)).get("key");

    if (!key)
        return;
    history.replaceState(null, "", location.pathname + location.search);
    await login({ key }).catch(() => null);
}

/** Calls `run` with the session once there is one, `end` when it is given up. */
export async function startSession(run, end) {
    onLogin = run;
    for (const choice of document.querySelectorAll("[name=login-mode]"))
        choice.addEventListener("change", showMode);
    byId("login-form").addEventListener("submit", submit);
    byId("login").addEventListener("cancel", (event) => event.preventDefault());
    byId("logout").addEventListener("click", async () => {
        await logout().catch(() => null);
        end();
        askLogin();
    });
    await loginByLink();
    for (;;) {
        const session = await readSession().catch(() => null);

        if (session) {
            if (take(session))
                run(session);
            else
                askLogin();
            return;
        }
        await new Promise((resolve) => setTimeout(resolve, 2000));
    }
}

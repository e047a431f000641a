// The native API: every request of the page goes through here.

export class ApiError extends Error {
    constructor(status, { code = "unknown", message = "", field = "" } = {}) {
        super(message);
        this.status = status;
        this.code = code;
        this.detail = message;
        this.field = field;
    }
}

let onLoginNeeded = () => {};

/** `run` is called when the server wants a login. */
export function whenLoginNeeded(run) {
    onLoginNeeded = run;
}

// Seeds have 64 bits, numbers here 53: they stay texts. Inside a string the quotation mark would be
// escaped, so this finds keys only.
const parse = (text) => JSON.parse(text.replace(/"seed":\s*(\d{16,})/g, '"seed":"$1"'));

async function failure(response) {
    try {
        return new ApiError(response.status, parse(await response.text()).error);
    } catch {
        return new ApiError(response.status, { message: `${response.status} ${response.statusText}` });
    }
}

async function request(method, path, { body, headers = {}, keepsLogin = false } = {}) {
    const options = { method, headers: { ...headers }, credentials: "same-origin" };
    let response;

    if (method !== "GET")
        options.headers["X-SD35-Request"] = "1";
    if (body !== undefined) {
        options.body = typeof body === "string" ? body : JSON.stringify(body);
        options.headers["Content-Type"] = "application/json";
    }
    try {
        response = await fetch(path, options);
    } catch {
        throw new ApiError(0, { code: "network" });
    }
    if (response.status === 401 && !keepsLogin)
        onLoginNeeded();
    if (!response.ok)
        throw await failure(response);
    return response;
}

async function json(method, path, options) {
    const text = await (await request(method, path, options)).text();

    return text ? parse(text) : {};
}

const segment = encodeURIComponent;

export const imageUrl = (id) => `/api/v1/images/${segment(id)}`;
export const thumbnailUrl = (id) => `${imageUrl(id)}/thumbnail`;
export const downloadUrl = (id) => `${imageUrl(id)}?download=1`;

/** Who is logged in: {authenticated, scopes, canLogOut, hasPasswords}. */
export async function readSession() {
    const session = await json("GET", "/api/v1/session");
    const needsLogin = session.login_is_needed ?? session.auth === "on";
    const authenticated = session.authenticated ?? (!needsLogin || session.user !== null);

    return {
        authenticated,
        scopes: session.scopes,
        canLogOut: authenticated && (session.by_cookie ?? needsLogin),
        hasPasswords: session.has_passwords ?? true,
    };
}

export const login = (credentials) => json("POST", "/api/v1/login", { body: credentials, keepsLogin: true });
export const logout = () => json("POST", "/api/v1/logout");
export const readModel = () => json("GET", "/api/v1/model");
export const readJob = (id) => json("GET", `/api/v1/jobs/${segment(id)}`);
export const cancelJob = (id) => json("DELETE", `/api/v1/jobs/${segment(id)}`);
export const deleteJob = (id) => json("DELETE", `/api/v1/jobs/${segment(id)}/record`);
export const readMetadata = (id) => json("GET", `${imageUrl(id)}/metadata`);
export const starImage = (id, starred) => json("POST", `${imageUrl(id)}/star`, { body: { starred } });

/** A page of jobs, newest first: {jobs, cursor}; cursor null: there are no more. */
export async function listJobs({ cursor, limit, search, starred }) {
    const query = new URLSearchParams({ limit });

    if (cursor)
        query.set("cursor", cursor);
    if (search)
        query.set("search", search);
    if (starred)
        query.set("starred", "true");
    const page = await json("GET", `/api/v1/jobs?${query}`);
    return { jobs: page.jobs, cursor: page.next_cursor ?? null };
}

function randomKey() {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Submits a job. `parameters.seed`, a text of digits, may be absent. When the answer is lost on the
 *  way, the same key makes trying again safe: the server knows the job already. */
export async function submitJob({ seed, ...parameters }) {
    const rest = JSON.stringify(parameters);
    const body = seed === undefined ? rest : `{"seed":${BigInt(seed)},${rest.slice(1)}`;
    const headers = { "Idempotency-Key": randomKey() };

    for (let attempt = 1; ; attempt++) {
        try {
            return await json("POST", "/api/v1/jobs", { body, headers });
        } catch (error) {
            if (error.code !== "network" || attempt === 3)
                throw error;
            await pause(attempt * 1000);
        }
    }
}

export async function fetchImage(id) {
    return (await request("GET", imageUrl(id))).blob();
}

export async function fetchZip(ids) {
    return (await request("POST", "/api/v1/images/zip", { body: { ids } })).blob();
}

/** Whether the server can draw: its answer, ready or not; null when nobody answers. */
export async function readHealth() {
    try {
        const response = await fetch("/health/ready", { cache: "no-store" });
        const state = await response.json().catch(() => ({}));

        return { ...state, ready: response.ok };
    } catch {
        return null;
    }
}

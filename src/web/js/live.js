// The stream of events: keeps the jobs up to date, and itself connected.
import { readSession } from "./api.js";
import { jobs } from "./jobs.js";

const JOB_EVENTS = ["job.queued", "job.started", "job.progress", "job.picture", "job.done", "job.failed", "job.cancelled", "job.starred"];
const RETRY_MS_MAX = 15000;

/** Fires "open", "begin" (active jobs may have gone on), "gap" (load everything anew), "lost", "login"
 *  (is needed), "worker", and "preview" with {job, image, jpeg}. */
class Live extends EventTarget {
    #source = null;
    #retryMs = 1000;
    #timer = 0;
    #lastId = ""; // of the last event that was seen
    #hasMissed = false; // an earlier stream was heard, or a try was in vain

    start() {
        const query = new URLSearchParams({ previews: 1 });

        if (this.#lastId)
            query.set("last_event_id", this.#lastId);
        this.stop();
        this.#source = new EventSource(`/api/v1/events?${query}`);
        this.#source.addEventListener("open", () => this.#opened());
        this.#source.addEventListener("error", () => this.#failed());
        for (const name of JOB_EVENTS)
            this.#listen(name, takeJob);
        this.#listen("job.deleted", (data) => jobs.remove(data.id));
        this.#listen("job.preview", (data) => this.#fire("preview", data));
        this.#listen("worker", (data) => this.#fire("worker", data));
        this.#listen("gap", () => this.#fire("gap"));
        this.#listen("ready", () => this.#heard());
    }

    stop() {
        clearTimeout(this.#timer);
        this.#source?.close();
        this.#source = null;
    }

    /** For another login: what this one saw does not count. */
    forget() {
        this.stop();
        this.#lastId = "";
        this.#hasMissed = false;
    }

    #listen(name, take) {
        this.#source.addEventListener(name, (event) => {
            let data;

            this.#lastId = event.lastEventId || this.#lastId;
            try {
                data = JSON.parse(event.data || "{}");
            } catch {
                return;
            }
            take(data);
        });
    }

    #fire(name, detail) {
        this.dispatchEvent(new CustomEvent(name, { detail }));
    }

    #opened() {
        this.#retryMs = 1000;
        this.#fire("open");
    }

    // A stream without a past. After an earlier try, what came between is not known; the first was
    // preceded by the time that it took to begin.
    #heard() {
        this.#fire(this.#hasMissed ? "gap" : "begin");
        this.#hasMissed = true;
    }

    // After a broken connection the browser comes back by itself with Last-Event-ID, and the server
    // sends what was missed, or "gap". It gives up for good when the answer was not a stream: the
    // server was not there, or the login is over.
    #failed() {
        this.#hasMissed = true;
        this.#fire("lost");
        if (this.#source?.readyState !== EventSource.CLOSED)
            return;
        this.stop();
        this.#timer = setTimeout(() => this.#again(), this.#retryMs);
        this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MS_MAX);
    }

    async #again() {
        const session = await readSession().catch(() => null);

        if (session && !session.authenticated) {
            this.#fire("login");
            return;
        }
        this.start();
    }
}

function takeJob(job) {
    if (!job.id)
        return;
    jobs.put(job);
    // Events leave the parameters out: a stranger's are asked for.
    if (!jobs.get(job.id).parameters)
        jobs.load(job.id);
}

export const live = new Live();

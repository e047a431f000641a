// The jobs that the page knows, as the server last told them. Fires "job" with {job, before} for
// each change, and "gone" with an id.
import { readJob } from "./api.js";

class Jobs extends EventTarget {
    #jobs = new Map();

    get(id) {
        return this.#jobs.get(id);
    }

    all() {
        return [...this.#jobs.values()];
    }

    /** A picture by its id, and the job it is of: {job, image}; null: not known. */
    findImage(id) {
        for (const job of this.#jobs.values()) {
            const image = job.images.find((candidate) => candidate.id === id);

            if (image)
                return { job, image };
        }
        return null;
    }

    active() {
        return this.all().filter(isActive);
    }

    /** Takes a job as it came: events carry parts only, which add to what is known. */
    put(part) {
        const before = this.#jobs.get(part.id);
        const job = { images: [], ...before };

        // An event that was on its way when the job ended says nothing new.
        if (before && !isActive(before) && (part.state === "queued" || part.state === "running"))
            return;
        for (const [name, value] of Object.entries(part))
            if (value !== undefined && !(value === null && (name === "parameters" || name === "images")))
                job[name] = value;
        if (part.images?.length === 0 && before?.images.length)
            job.images = before.images;
        this.#jobs.set(job.id, job);
        this.dispatchEvent(new CustomEvent("job", { detail: { job, before } }));
    }

    /** Asks the server for the whole of a job. */
    async load(id) {
        try {
            this.put(await readJob(id));
        } catch (error) {
            if (error.status === 404)
                this.remove(id);
        }
    }

    remove(id) {
        if (this.#jobs.delete(id))
            this.dispatchEvent(new CustomEvent("gone", { detail: id }));
    }

    clear() {
        for (const id of [...this.#jobs.keys()])
            this.remove(id);
    }
}

export const isActive = (job) => job.state === "queued" || job.state === "running";
export const promptOf = (job) => job.parameters?.prompt ?? "";
export const jobs = new Jobs();

/* Gauges, read when somebody asks: of the process, the hub, the device and the store. */
#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/metrics_counts.h"

#define STORE_COUNTS_SECONDS 10 /* counting takes a query over all rows: not at each scrape */

static void write_gauge(FILE *out, const char *name, const char *help, double value)
{
    metrics_write_head(out, name, "gauge", help);
    fprintf(out, "%s %.17g\n", name, value);
}

static double resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    char line[128];
    char *end;
    unsigned long pages = 0;

    if (!file)
        return 0;
    if (fgets(line, sizeof line, file)) {
        strtoul(line, &end, 10);
        pages = strtoul(end, NULL, 10);
    }
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* Without "." and "..", and without the one that counting takes. */
static double open_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;

    if (!folder)
        return 0;
    while (readdir(folder))
        count++;
    closedir(folder);
    return count > 3 ? count - 3 : 0;
}

/* Seconds since this process began: the first field after the name that counts them is the 22nd of
 * proc(5)'s stat, in clock ticks since the machine began. */
static double uptime_seconds(void)
{
    FILE *file = fopen("/proc/self/stat", "r");
    char line[1024], *at = NULL;
    struct timespec now;
    size_t size = 0;

    if (!file)
        return 0;
    size = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[size] = '\0';
    for (size_t i = 0; i < size; i++)
        if (line[i] == ')')
            at = line + i + 1;
    for (int field = 2; at && *at && field < 22; at++)
        field += *at == ' ';
    if (!at || !*at)
        return 0;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9 -
           (double)strtoull(at, NULL, 10) / (double)sysconf(_SC_CLK_TCK);
}

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec * 1e-6;
}

void metrics_write_process(FILE *out)
{
    struct rlimit descriptors = {0};
    struct rusage usage = {0};
    double uptime = uptime_seconds();

    getrusage(RUSAGE_SELF, &usage);
    getrlimit(RLIMIT_NOFILE, &descriptors);
    metrics_write_head(out, "sd35_build_info", "gauge", "Always 1; what runs is in the labels.");
    fprintf(out, "sd35_build_info{version=\"%s\"} 1\n", SD35_VERSION);
    write_gauge(out, "sd35_uptime_seconds", "Since the front started.", uptime);
    metrics_write_head(out, "process_cpu_seconds_total", "counter",
                       "Of the front, user and system.");
    fprintf(out, "process_cpu_seconds_total %.17g\n",
            seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime));
    write_gauge(out, "process_start_time_seconds", "Since 1970.", (double)time(NULL) - uptime);
    write_gauge(out, "process_resident_memory_bytes", "Of the front.", resident_bytes());
    write_gauge(out, "process_open_fds", "Descriptors of the front.", open_descriptors());
    write_gauge(out, "process_max_fds", "As many as it may have.", (double)descriptors.rlim_cur);
}

static void write_device(FILE *out, const struct device_message *device)
{
    metrics_write_head(out, "sd35_device_memory_bytes", "gauge", "Memory of the device.");
    fprintf(out,
            "sd35_device_memory_bytes{kind=\"free\"} %" PRIu64 "\n"
            "sd35_device_memory_bytes{kind=\"total\"} %" PRIu64 "\n"
            "sd35_device_memory_bytes{kind=\"ours\"} %" PRIu64 "\n",
            device->memory_free, device->memory_total, device->memory_used_by_us);
    if (device->utilisation_percent >= 0)
        write_gauge(out, "sd35_device_utilization_ratio", "Share of the time that it worked.",
                    device->utilisation_percent / 100.0);
    if (device->temperature_celsius >= 0)
        write_gauge(out, "sd35_device_temperature_celsius", "Temperature of the device.",
                    device->temperature_celsius);
    if (device->power_watts >= 0)
        write_gauge(out, "sd35_device_power_watts", "What the device draws.", device->power_watts);
}

static bool count_store(void *context, struct store *store, struct error *err)
{
    return store_count(store, context, err);
}

/* At most every STORE_COUNTS_SECONDS; what was counted before when the store fails now. False:
 * nothing was counted yet. */
static bool store_counts(struct hub *hub, struct store_counts *out)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct store_counts cached;
    static struct hub *cached_hub;
    static double counted_at;
    struct store_counts counts = {0};
    bool has_counts;

    pthread_mutex_lock(&lock);
    if (hub != cached_hub || seconds_now() - counted_at >= STORE_COUNTS_SECONDS) {
        if (hub_with_store(hub, count_store, &counts, NULL)) {
            cached = counts;
            cached_hub = hub;
        }
        counted_at = seconds_now();
    }
    *out = cached;
    has_counts = cached_hub == hub;
    pthread_mutex_unlock(&lock);
    return has_counts;
}

static void write_store(FILE *out, const struct store_counts *counts)
{
    const int64_t by_state[] = {counts->queued, counts->running, counts->done, counts->failed,
                                counts->cancelled};
    static const char *const states[] = {"queued", "running", "done", "failed", "cancelled"};

    metrics_write_head(out, "sd35_store_jobs", "gauge", "Jobs in the store, by state.");
    for (size_t i = 0; i < COUNT_OF(by_state); i++)
        fprintf(out, "sd35_store_jobs{state=\"%s\"} %" PRId64 "\n", states[i], by_state[i]);
    write_gauge(out, "sd35_store_pictures", "Pictures in the store.", (double)counts->pictures);
    write_gauge(out, "sd35_store_picture_bytes", "Size of all pictures.",
                (double)counts->picture_bytes);
    write_gauge(out, "sd35_store_database_bytes", "Size of the database.",
                (double)counts->database_bytes);
    write_gauge(out, "sd35_disk_free_bytes", "Free on the disk of the store.",
                (double)counts->disk_free_bytes);
}

/* What the hub knows of beyond what was counted has no reason. */
static void write_restarts(FILE *out, int restarts)
{
    const struct counter_kind *kind = &metrics_counter_kinds[METRIC_WORKER_RESTARTS];
    double unknown = restarts;

    metrics_write_head(out, kind->name, "counter", kind->help);
    for (size_t i = 0;; i++) {
        double counted = atomic_load_explicit(&metrics_counts.counters[METRIC_WORKER_RESTARTS][i],
                                              memory_order_relaxed);
        bool is_last = strcmp(kind->values[i], "other") == 0;

        unknown -= counted;
        if (is_last && unknown > 0)
            counted += unknown;
        fprintf(out, "%s{%s=\"%s\"} %.17g\n", kind->name, kind->label, kind->values[i], counted);
        if (is_last)
            return;
    }
}

void metrics_write_hub(FILE *out, struct hub *hub)
{
    struct store_counts counts;
    struct hub_state state = {0};

    hub_state(hub, &state);
    write_gauge(out, "sd35_ready", "1: pictures can be drawn.", state.is_ready);
    write_gauge(out, "sd35_draining", "1: nothing new is accepted.", state.is_draining);
    write_gauge(out, "sd35_store_works", "1: the store takes jobs.", state.store_works);
    write_gauge(out, "sd35_disk_has_reserve", "1: the disk has its reserve.",
                state.disk != STORE_DISK_FULL);
    metrics_write_head(out, "sd35_jobs", "gauge", "Jobs that are not done yet.");
    fprintf(out, "sd35_jobs{state=\"queued\"} %d\nsd35_jobs{state=\"running\"} %d\n", state.queued,
            state.running);
    metrics_write_head(out, "sd35_workers", "gauge", "Workers, and how many of them can draw.");
    fprintf(out, "sd35_workers{state=\"ready\"} %d\nsd35_workers{state=\"not_ready\"} %d\n",
            state.workers_ready, state.workers - state.workers_ready);
    write_restarts(out, state.restarts);
    if (!state.is_ready)
        write_gauge(out, "sd35_loading_ratio", "Share of the model that is loaded.",
                    state.loading.fraction);
    if (state.has_device)
        write_device(out, &state.device);
    if (store_counts(hub, &counts))
        write_store(out, &counts);
}

/* Made-up machines: a folder with proc/, sys/ and dev/, and what is read from it. */
#include "support/support.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/machine_limits.h"

#define GIB (1024ull * 1024 * 1024)
#define V1_MOUNTS                                                                                  \
    "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"                                              \
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"         \
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory\n"          \
    "39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
#define V2_MOUNTS "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"

static const char *machine;

/* Each test has a machine of its own. */
static int make_machine(void **state)
{
    static int count;
    char name[32];

    (void)state;
    snprintf(name, sizeof name, "machine%d", ++count);
    machine = test_path(name);
    return mkdir(machine, 0755);
}

/* A file of the machine, with the folders that it lies in. */
static void put(const char *name, const char *text)
{
    char path[8192];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", machine, name);
    for (char *at = path + strlen(machine) + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(path, 0755);
        *at = '/';
    }
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static struct machine_limits limits_now(void)
{
    struct machine_limits limits;

    machine_limits_read(&limits, machine);
    return limits;
}

static int machine_cpus(void)
{
    struct machine_limits limits;

    machine_limits_read(&limits, "/nowhere");
    return limits.cpus;
}

static void assert_unlimited(void)
{
    struct machine_limits limits = limits_now();

    assert_true(limits.memory_group == MACHINE_UNLIMITED);
    assert_true(limits.process_count == MACHINE_UNLIMITED);
    assert_true(limits.cpu_quota == 0);
    assert_int_equal(limits.cpus, machine_cpus());
}

static void a_machine_without_anything_has_no_limits(void **state)
{
    uint64_t kills;

    (void)state;
    assert_unlimited();
    assert_true(limits_now().memory_bytes == MACHINE_UNLIMITED);
    assert_true(limits_now().shm_bytes == MACHINE_UNLIMITED);
    assert_false(machine_oom_kills(&kills, machine));
    assert_true(machine_cpus() >= 1);
}

static void groups_of_version_1_limit(void **state)
{
    struct machine_limits limits;
    uint64_t kills = 0;

    (void)state;
    put("proc/meminfo", "MemTotal:       24683652 kB\nSwapTotal: 1024 kB\n");
    put("proc/self/cgroup", "9:name=systemd:/\n8:pids:/box\n4:memory:/box\n1:cpu,cpuacct:/box\n");
    put("proc/self/mountinfo", V1_MOUNTS);
    put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "3221225472\n");
    put("sys/fs/cgroup/memory/box/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "50000\n");
    put("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
    put("sys/fs/cgroup/pids/box/pids.max", "100\n");
    put("sys/fs/cgroup/pids/box/pids.current", "12\n");
    limits = limits_now();
    assert_true(limits.memory_total == 24683652ull * 1024);
    assert_true(limits.swap_bytes == 1024 * 1024);
    assert_true(limits.memory_group == 3 * GIB);
    assert_true(limits.memory_bytes == 3 * GIB);
    assert_true(limits.cpu_quota == 0.5);
    assert_int_equal(limits.cpus, 1);
    assert_int_equal(limits.process_count, 100);
    assert_int_equal(limits.process_used, 12);
    assert_true(machine_oom_kills(&kills, machine));
    assert_int_equal(kills, 7);
}

static void groups_of_version_2_limit(void **state)
{
    struct machine_limits limits;
    uint64_t kills = 0;

    (void)state;
    put("proc/meminfo", "MemTotal: 8388608 kB\n");
    put("proc/self/cgroup", "0::/\n");
    put("proc/self/mountinfo", V2_MOUNTS);
    put("sys/fs/cgroup/memory.max", "1073741824\n");
    put("sys/fs/cgroup/memory.events", "low 0\nhigh 0\nmax 4\noom 3\noom_kill 2\n");
    put("sys/fs/cgroup/cpu.max", "100000 100000\n");
    put("sys/fs/cgroup/pids.max", "64\n");
    limits = limits_now();
    assert_true(limits.memory_bytes == GIB);
    assert_int_equal(limits.cpus, 1);
    assert_int_equal(limits.process_count, 64);
    assert_int_equal(limits.process_used, 0);
    assert_true(machine_oom_kills(&kills, machine));
    assert_int_equal(kills, 2);
}

static void a_quota_of_more_than_one_cpu_is_rounded_up(void **state)
{
    (void)state;
    put("proc/self/cgroup", "0::/\n");
    put("proc/self/mountinfo", V2_MOUNTS);
    put("sys/fs/cgroup/cpu.max", "110000 100000\n");
    assert_true(limits_now().cpu_quota == 1.1);
    assert_int_equal(limits_now().cpus, machine_cpus() < 2 ? 1 : 2);
}

static void a_smaller_parent_counts(void **state)
{
    struct machine_limits limits;

    (void)state;
    put("proc/meminfo", "MemTotal: 8388608 kB\n");
    put("proc/self/cgroup", "0::/pod/box/part\n");
    put("proc/self/mountinfo", V2_MOUNTS);
    put("sys/fs/cgroup/pod/memory.max", "2147483648\n");
    put("sys/fs/cgroup/pod/box/memory.max", "1073741824\n");
    put("sys/fs/cgroup/pod/box/part/memory.max", "max\n");
    put("sys/fs/cgroup/pod/cpu.max", "20000 100000\n");
    put("sys/fs/cgroup/pod/box/part/cpu.max", "max 100000\n");
    put("sys/fs/cgroup/pod/pids.max", "10\n");
    put("sys/fs/cgroup/pod/box/pids.max", "20\n");
    limits = limits_now();
    assert_true(limits.memory_bytes == GIB);
    assert_int_equal(limits.cpus, 1);
    assert_int_equal(limits.process_count, 10);
}

static void both_versions_side_by_side_count(void **state)
{
    uint64_t kills = 0;

    (void)state;
    put("proc/meminfo", "MemTotal: 8388608 kB\n");
    put("proc/self/cgroup", "4:memory:/box\n0::/box\n");
    put("proc/self/mountinfo",
        V1_MOUNTS "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
    put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1073741824\n");
    put("sys/fs/cgroup/unified/box/pids.max", "50\n");
    put("sys/fs/cgroup/unified/box/memory.events", "oom_kill 5\n");
    assert_true(limits_now().memory_bytes == GIB);
    assert_int_equal(limits_now().process_count, 50);
    assert_true(machine_oom_kills(&kills, machine));
    assert_int_equal(kills, 5);
}

/* A container without a namespace of groups: its group is the mount's root. */
static void the_mounts_root_is_taken_off_the_path(void **state)
{
    (void)state;
    put("proc/self/cgroup", "4:memory:/docker/0a1b\n");
    put("proc/self/mountinfo", "35 31 0:32 /docker/0a1b /sys/fs/cgroup/memory\\040of ro - cgroup "
                               "cgroup rw,memory\n");
    put("sys/fs/cgroup/memory of/memory.limit_in_bytes", "1073741824\n");
    assert_true(limits_now().memory_bytes == GIB);
}

/* And a path that leads out of what is mounted, or nowhere: the mount itself. */
static void a_path_out_of_sight_is_the_mount(void **state)
{
    static const char *const paths[] = {"0::/../../other\n", "0::/gone\n", "0::/a/../../../../\n"};

    (void)state;
    put("proc/self/mountinfo", V2_MOUNTS);
    put("sys/fs/cgroup/memory.max", "1073741824\n");
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        put("proc/self/cgroup", paths[i]);
        assert_true(limits_now().memory_bytes == GIB);
    }
}

static void what_hidden_parents_leave_is_read_from_the_statistics(void **state)
{
    (void)state;
    put("proc/self/cgroup", "4:memory:/\n");
    put("proc/self/mountinfo", V1_MOUNTS);
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/memory.stat", "cache 5\nhierarchical_memory_limit 1073741824\n");
    assert_true(limits_now().memory_bytes == GIB);
}

static void nonsense_is_no_limit(void **state)
{
    static const char *const values[] = {
        "",
        "\n",
        "max\n",
        "-1\n",
        "0\n",
        "nonsense\n",
        "0x10\n",
        "max 100000\n",
        "\xff\xfe\n",
        " 5\n",
        "99999999999999999999999999999\n",
    };
    static const char *const files[] = {"memory.max", "cpu.max", "pids.max"};

    (void)state;
    put("proc/meminfo", "MemTotal: 8388608 kB\n");
    put("proc/self/cgroup", "0::/\n");
    put("proc/self/mountinfo", V2_MOUNTS);
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
        char path[64];

        for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
            snprintf(path, sizeof path, "sys/fs/cgroup/%s", files[f]);
            put(path, values[v]);
        }
        assert_unlimited();
    }
    put("sys/fs/cgroup/cpu.max", "100000 0\n");
    assert_unlimited();
    put("sys/fs/cgroup/cpu.max", "100000\n");
    assert_unlimited();
}

static void damaged_tables_are_no_limit(void **state)
{
    static const char *const tables[] = {
        "",
        "\n\n\n",
        "30\n",
        "30 23 0:26 /\n",
        "30 23 0:26 / /sys/fs/cgroup rw\n",
        "30 23 0:26 / /sys/fs/cgroup rw - \n",
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2\n",
        "30 23 0:26 / /sys\\04/fs\\ rw - cgroup2 cgroup2 rw\n",
        "- - - - - - - - -\n",
    };
    uint64_t kills;

    (void)state;
    put("sys/fs/cgroup/memory.max", "1073741824\n");
    put("proc/vmstat", "oom_kill lots\n");
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        put("proc/self/mountinfo", tables[i]);
        put("proc/self/cgroup", "0::/\n");
        assert_unlimited();
        put("proc/self/mountinfo", V2_MOUNTS);
        put("proc/self/cgroup", tables[i]);
        assert_unlimited();
        assert_false(machine_oom_kills(&kills, machine));
    }
}

/* Longer than the buffer: passed over, and the next line is read as ever. */
static void overlong_lines_are_passed_over(void **state)
{
    static char table[60000];
    int length;

    (void)state;
    memset(table, 'x', 50000);
    length = snprintf(table + 50000, sizeof table - 50000, "\n%s", V2_MOUNTS);
    assert_true(length > 0);
    put("proc/self/mountinfo", table);
    put("proc/self/cgroup", "0::/\n");
    put("sys/fs/cgroup/memory.max", "1073741824"); /* no newline */
    assert_true(limits_now().memory_bytes == GIB);
    memset(table + 3, 'y', 49000);
    memcpy(table, "0::/", 4);
    put("proc/self/cgroup", table);
    assert_unlimited();
}

static void the_machines_own_count_is_taken_where_groups_do_not_tell(void **state)
{
    uint64_t kills = 0;

    (void)state;
    put("proc/self/cgroup", "0::/\n");
    put("proc/self/mountinfo", V2_MOUNTS);
    put("sys/fs/cgroup/memory.max", "max\n");
    put("proc/vmstat", "nr_free_pages 5\noom_kill 11\n");
    assert_true(machine_oom_kills(&kills, machine));
    assert_int_equal(kills, 11);
}

static void this_machine_is_read(void **state)
{
    struct machine_limits limits;

    (void)state;
    machine_limits_read(&limits, NULL);
    assert_true(limits.cpus >= 1);
    assert_true(limits.memory_bytes > 1024 * 1024);
    assert_true(limits.memory_bytes <= limits.memory_total);
    assert_true(limits.memory_total != MACHINE_UNLIMITED);
}

#define TEST(name) cmocka_unit_test_setup(name, make_machine)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_machine_without_anything_has_no_limits),
        TEST(groups_of_version_1_limit),
        TEST(groups_of_version_2_limit),
        TEST(a_quota_of_more_than_one_cpu_is_rounded_up),
        TEST(a_smaller_parent_counts),
        TEST(both_versions_side_by_side_count),
        TEST(the_mounts_root_is_taken_off_the_path),
        TEST(a_path_out_of_sight_is_the_mount),
        TEST(what_hidden_parents_leave_is_read_from_the_statistics),
        TEST(nonsense_is_no_limit),
        TEST(damaged_tables_are_no_limit),
        TEST(overlong_lines_are_passed_over),
        TEST(the_machines_own_count_is_taken_where_groups_do_not_tell),
        TEST(this_machine_is_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

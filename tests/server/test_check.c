/* The diagnosis, made to find things: GPUs in trees of files that are made up, with a plugin that
 * says what it is told; shared memory that a filter of system calls refuses; and the table of
 * texts. What a real port, folder or model is needed for is in check_test.py. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check/checks.h"
#include "check/gpu_probe.h"
#include "check/health_client.h"
#include "support/support.h"

/* --- GPUs --- */

/* A file of the tree, with its folders. */
static void make_file(const char *root, const char *path, const char *text)
{
    char whole[512];
    FILE *file;

    snprintf(whole, sizeof whole, "%s/%s", root, path);
    for (char *slash = strchr(whole + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        assert_true(mkdir(whole, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
    file = fopen(whole, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

#define NODES "dev/nvidiactl"
#define DRIVER "proc/driver/nvidia/version"
#define WSL "dev/dxg"
#define DOCKER ".dockerenv"
#define PODMAN "run/.containerenv"
#define CARD "card"

static const char *make_root(const char *const *files)
{
    static int number;
    char name[32];
    const char *root;

    snprintf(name, sizeof name, "root-%d", number++);
    root = test_path(name);
    assert_int_equal(mkdir(root, 0755), 0);
    for (; *files; files++) {
        if (strcmp(*files, CARD) != 0) {
            make_file(root, *files, "");
            continue;
        }
        make_file(root, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n");
        make_file(root, "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n");
    }
    return root;
}

static void look(struct findings *findings, struct gpu_list *list, const char *root,
                 const char *device)
{
    const char *const devices[] = {device, NULL};
    const struct gpu_check check = {.root = root, .devices = devices};
    bool draws_on_cpu;

    check_gpus(findings, &check, list, &draws_on_cpu);
    assert_true(draws_on_cpu == (strcmp(device, "auto") == 0 && list->count == 0));
}

static void expect_finding(const struct findings *findings, enum finding_level level,
                           const char *code, const char *cure)
{
    assert_int_equal(findings->count, 1);
    assert_string_equal(findings->items[0].code, code);
    assert_int_equal(findings->items[0].level, level);
    assert_null(strchr(findings->items[0].found, '{')); /* nothing was left unfilled */
    if (!cure)
        return;
    assert_null(strchr(findings->items[0].cure, '{'));
    if (!strstr(findings->items[0].cure, cure))
        fail_msg("'%s' does not say '%s'", findings->items[0].cure, cure);
}

static const struct gpu_case {
    const char *gpus;     /* FAKE_GPUS; NULL: there is no plugin */
    const char *files[6]; /* of the tree */
    const char *code;
    const char *cure; /* what both languages name */
} gpu_cases[] = {
    {"no_driver", {NULL}, "gpu_none", "--device cpu"},
    {"no_driver", {DOCKER}, "gpu_none", "docker run --gpus all"},
    {"no_driver", {PODMAN}, "gpu_none", "--device nvidia.com/gpu=all"},
    {"no_driver", {DOCKER, DRIVER, CARD}, "gpu_none", "docker run --gpus all"},
    {"no_driver", {CARD}, "gpu_driver_missing", "sudo apt install nvidia-driver"},
    {"no_driver", {DOCKER, CARD}, "gpu_driver_missing", "sudo apt install nvidia-driver"},
    {"no_driver",
     {DOCKER, NODES, DRIVER},
     "gpu_toolkit_missing",
     "sudo nvidia-ctk runtime configure --runtime=docker"},
    {"no_driver",
     {PODMAN, NODES},
     "gpu_toolkit_missing",
     "NVIDIA_DRIVER_CAPABILITIES=compute,utility"},
    {"no_driver", {NODES, DRIVER, CARD}, "gpu_library_missing", "libcuda1"},
    {"no_driver", {WSL}, "gpu_wsl", "wsl --update"},
    {"no_driver", {DOCKER, WSL}, "gpu_wsl", "docker run --gpus all"},
    {"12040", {DOCKER, NODES, DRIVER}, "gpu_driver_old", "CUDA 13.0"},
    {"none", {NODES, DRIVER}, "gpu_none", "--device cpu"},
    {"none", {DOCKER}, "gpu_none", "docker run --gpus all"},
    {"broken", {NODES, DRIVER}, "gpu_failed", "nvidia-smi"},
    {"crash", {NODES, DRIVER}, "gpu_probe_died", "dmesg"},
    {"0,old", {NODES, DRIVER}, "gpu_too_old", "--device cpu"},
    {NULL, {NODES, DRIVER}, "gpu_backend_missing", "cmake --preset release"},
    {NULL, {CARD}, "gpu_backend_missing", "cmake --preset release"},
};

static void use_plugin(const char *gpus)
{
    setenv("SD35_PLUGIN_DIR", gpus ? FAKE_PLUGIN_FOLDER : "/none", 1);
    setenv("FAKE_GPUS", gpus ? gpus : "", 1);
}

static void each_cause_is_told_with_its_cure(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(gpu_cases); i++) {
        const struct gpu_case *one = &gpu_cases[i];
        const char *root = make_root(one->files);

        use_plugin(one->gpus);
        for (int language = 0; language < LANGUAGE_COUNT; language++) {
            struct findings any = {.language = (enum language)language};
            struct findings asked = {.language = (enum language)language};
            struct gpu_list list;

            look(&any, &list, root, "auto");
            expect_finding(&any, FINDING_NOTE, one->code, one->cure);
            assert_int_equal(list.count, 0);
            look(&asked, &list, root, "cuda");
            expect_finding(&asked, FINDING_FAIL, one->code, one->cure);
            findings_finish(&any);
            findings_finish(&asked);
        }
    }
}

static void texts_name_what_was_found(void **state)
{
    struct findings findings = {.language = LANGUAGE_ENGLISH};
    struct gpu_list list;

    (void)state;
    use_plugin("12040");
    look(&findings, &list, make_root((const char *const[]){NODES, NULL}), "auto");
    assert_non_null(strstr(findings.items[0].found, "CUDA 12.4, and 13.0 is needed"));
    findings_finish(&findings);
    use_plugin("crash");
    look(&findings, &list, make_root((const char *const[]){NODES, NULL}), "auto");
    assert_non_null(strstr(findings.items[0].found, "signal 9"));
    findings_finish(&findings);
}

static void hidden_gpus_are_told(void **state)
{
    struct findings findings = {.language = LANGUAGE_ENGLISH};
    struct gpu_list list;

    (void)state;
    use_plugin("none");
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    look(&findings, &list, make_root((const char *const[]){NODES, NULL}), "auto");
    unsetenv("CUDA_VISIBLE_DEVICES");
    expect_finding(&findings, FINDING_NOTE, "gpu_hidden", "unset CUDA_VISIBLE_DEVICES");
    findings_finish(&findings);
}

static void auto_takes_all_gpus_that_are_new_enough(void **state)
{
    struct findings findings = {.language = LANGUAGE_ENGLISH};
    struct gpu_list list;

    (void)state;
    use_plugin("3");
    look(&findings, &list, "", "auto");
    assert_int_equal(list.count, 3);
    assert_int_equal(list.index[2], 2);
    expect_finding(&findings, FINDING_OK, "gpu_found", NULL);
    findings_finish(&findings);
    use_plugin("2,old");
    look(&findings, &list, "", "auto");
    assert_int_equal(list.count, 2);
    assert_int_equal(findings.count, 2);
    assert_string_equal(findings.items[0].code, "gpu_too_old");
    assert_string_equal(findings.items[1].code, "gpu_found");
    findings_finish(&findings);
}

static void gpus_that_are_not_there_are_told(void **state)
{
    struct findings findings = {.language = LANGUAGE_ENGLISH};
    struct gpu_list list;

    (void)state;
    use_plugin("2");
    look(&findings, &list, "", "cuda:1");
    expect_finding(&findings, FINDING_OK, "gpu_found", NULL);
    findings_finish(&findings);
    look(&findings, &list, "", "cuda:2");
    expect_finding(&findings, FINDING_FAIL, "gpu_missing", "--device cuda:0");
    findings_finish(&findings);
    look(&findings, &list, "", "gpu");
    expect_finding(&findings, FINDING_FAIL, "device_unknown", "--device auto");
    findings_finish(&findings);
}

static void devices_are_opened_where_asked_for(void **state)
{
    static const char *const devices[] = {"auto", NULL};
    const struct gpu_check check = {.root = "", .devices = devices, .opens = true};
    struct findings findings = {.language = LANGUAGE_ENGLISH};
    struct gpu_list list;
    bool draws_on_cpu;

    (void)state;
    use_plugin("2");
    check_gpus(&findings, &check, &list, &draws_on_cpu);
    assert_int_equal(findings.count, 2);
    assert_string_equal(findings.items[1].found, "GPU 1: fake GPU 1");
    assert_false(draws_on_cpu);
    findings_finish(&findings);
}

static void a_driver_that_hangs_is_left(void **state)
{
    struct gpu_probe probe;

    (void)state;
    use_plugin("hang");
    gpu_probe(&probe, -1, NULL, 0.2);
    assert_int_equal(probe.end, PROBE_HUNG);
}

/* --- Shared memory --- */

/* In a process of its own: the filter cannot be taken off again. */
static void find_without_memfds(void)
{
    struct sock_filter lines[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {COUNT_OF(lines), lines};
    struct findings findings = {.language = LANGUAGE_ENGLISH};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
        _exit(77);
    check_shared_memory(&findings, "");
    if (findings.count != 1 || strcmp(findings.items[0].code, "shm_refused") != 0 ||
        findings.items[0].level != FINDING_FAIL || !strstr(findings.items[0].cure, "seccomp") ||
        !strstr(findings.items[0].found, "not permitted"))
        _exit(1);
    _exit(0);
}

static void refused_shared_memory_is_told(void **state)
{
    int status;
    pid_t pid = fork();

    (void)state;
    if (pid == 0)
        find_without_memfds();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        puts("refused_shared_memory_is_told: SKIPPED: this system has no seccomp filters");
    else
        assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- Memory --- */

static void too_little_memory_is_told(void **state)
{
    const struct pipeline_options options = {.model = MODEL_FOLDER};
    struct findings findings = {.language = LANGUAGE_ENGLISH};
    const char *root = make_root((const char *const[]){NULL});

    (void)state;
    make_file(root, "proc/meminfo", "MemTotal:  40000 kB\n");
    check_model(&findings, root, &options, true);
    assert_int_equal(findings.count, 2);
    assert_string_equal(findings.items[0].code, "model_found");
    assert_string_equal(findings.items[1].code, "memory_small");
    assert_int_equal(findings.items[1].level, FINDING_NOTE);
    assert_non_null(strstr(findings.items[1].cure, "--output-path " MODEL_FOLDER "-fp8"));
    findings_finish(&findings);
    check_model(&findings, root, &options, false); /* a GPU draws */
    assert_int_equal(findings.count, 1);
    findings_finish(&findings);
    make_file(root, "proc/meminfo", "MemTotal:  8000000 kB\n");
    make_file(root, "proc/self/cgroup", "0::/\n");
    make_file(root, "proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    make_file(root, "sys/fs/cgroup/memory.max", "40000000\n");
    check_model(&findings, root, &options, true);
    assert_string_equal(findings.items[1].code, "memory_small");
    assert_non_null(strstr(findings.items[1].cure, "docker run --memory="));
    findings_finish(&findings);
}

/* --- Texts --- */

/* How often each placeholder stands in the text, as a sum over its letters: the same sum, the same
 * placeholders. */
static unsigned long placeholders(const char *text)
{
    unsigned long sum = 0;

    for (const char *at = text; (at = strchr(at, '{')); at++) {
        unsigned long one = 5381;

        for (const char *letter = at; *letter && *letter != '}' && *letter != '!'; letter++)
            one = 33 * one + (unsigned char)*letter;
        sum += one;
    }
    return sum;
}

static void every_text_is_there_in_both_languages(void **state)
{
    (void)state;
    for (int row = 0; row < CHECK_ROW_COUNT; row++) {
        const struct check_text *text = check_text((enum check_row)row);
        const char *const *found = text->found, *const *cure = text->cure;

        assert_true(text->subject && text->code && found[0] && found[1]);
        assert_int_equal(placeholders(found[0]), placeholders(found[1]));
        assert_true((cure[0] == NULL) == (cure[1] == NULL));
        if (cure[0])
            assert_int_equal(placeholders(cure[0]), placeholders(cure[1]));
        assert_int_equal(strspn(text->code, "abcdefghijklmnopqrstuvwxyz_"), strlen(text->code));
    }
}

static void paths_in_cures_are_words_of_a_shell(void **state)
{
    struct findings findings = {.language = LANGUAGE_ENGLISH};

    (void)state;
    findings_add(&findings, FINDING_FAIL, CHECK_MODEL_UNREADABLE, "path", "/a b/it's {user}",
                 "user", "1:2", "message", "no", NULL);
    assert_string_equal(findings.items[0].found, "user 1:2 may not read '/a b/it's {user}': no");
    assert_string_equal(findings.items[0].cure, "sudo chmod -R a+rX '/a b/it'\\''s {user}'");
    findings_finish(&findings);
}

static void the_language_is_the_locale_s(void **state)
{
    static const struct {
        const char *own, *all, *messages, *lang;
        enum language language;
    } cases[] = {
        {NULL, NULL, NULL, NULL, LANGUAGE_ENGLISH},
        {NULL, NULL, NULL, "zh_CN.UTF-8", LANGUAGE_CHINESE},
        {NULL, NULL, "en_US.UTF-8", "zh_CN.UTF-8", LANGUAGE_ENGLISH},
        {NULL, "zh", "en_US.UTF-8", "C", LANGUAGE_CHINESE},
        {NULL, "", "zh_TW", "C", LANGUAGE_CHINESE},
        {"en", "zh_CN", NULL, NULL, LANGUAGE_ENGLISH},
        {"zh", "C", "C", "C", LANGUAGE_CHINESE},
    };
    static const char *const names[] = {"SD35_LANG", "LC_ALL", "LC_MESSAGES", "LANG"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *const values[] = {cases[i].own, cases[i].all, cases[i].messages, cases[i].lang};

        for (size_t name = 0; name < COUNT_OF(names); name++) {
            unsetenv(names[name]);
            if (values[name])
                setenv(names[name], values[name], 1);
        }
        assert_int_equal(language_of_environment(), cases[i].language);
    }
}

/* --- The address of a server --- */

static void write_address(const char *outputs, const char *text)
{
    make_file(outputs, ".sd35/address", text);
}

static void addresses_are_read_as_they_are_written(void **state)
{
    const char *outputs = make_root((const char *const[]){".sd35/lock", NULL});
    static const char *const hosts[] = {"0.0.0.0", "::", "10.1.2.3", "fe80::1"};
    static const char *const reached[] = {"127.0.0.1", "::1", "10.1.2.3", "fe80::1"};
    struct health_address address, again;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(hosts); i++) {
        address = health_address_of(hosts[i], 7860, i % 2);
        assert_true(health_address_write(&address, outputs, NULL));
        assert_true(health_address_read(&again, outputs, NULL));
        assert_string_equal(again.host, reached[i]);
        assert_int_equal(again.port, 7860);
        assert_int_equal(again.has_tls, i % 2);
    }
    health_address_remove(outputs);
    assert_false(health_address_read(&again, outputs, NULL));
}

static void damaged_addresses_are_refused(void **state)
{
    static const char *const texts[] = {
        "",
        "http://",
        "ftp://a:1",
        "http://a",
        "http://:1",
        "http://a:",
        "http://a:0",
        "http://a:65536",
        "http://a:1x",
        "http://a:-1",
        "http://[::1:80",
        "http://[::1]80",
        "http://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:1"};
    const char *outputs = make_root((const char *const[]){".sd35/lock", NULL});

    (void)state;
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct health_address address;
        struct error err = {0};

        write_address(outputs, texts[i]);
        if (health_address_read(&address, outputs, &err))
            fail_msg("'%s' was taken for an address", texts[i]);
        assert_int_equal(err.code, ERROR_BAD_FILE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_cause_is_told_with_its_cure),
        cmocka_unit_test(texts_name_what_was_found),
        cmocka_unit_test(hidden_gpus_are_told),
        cmocka_unit_test(auto_takes_all_gpus_that_are_new_enough),
        cmocka_unit_test(gpus_that_are_not_there_are_told),
        cmocka_unit_test(devices_are_opened_where_asked_for),
        cmocka_unit_test(a_driver_that_hangs_is_left),
        cmocka_unit_test(refused_shared_memory_is_told),
        cmocka_unit_test(too_little_memory_is_told),
        cmocka_unit_test(every_text_is_there_in_both_languages),
        cmocka_unit_test(paths_in_cures_are_words_of_a_shell),
        cmocka_unit_test(the_language_is_the_locale_s),
        cmocka_unit_test(addresses_are_read_as_they_are_written),
        cmocka_unit_test(damaged_addresses_are_refused),
    };

    unsetenv("CUDA_VISIBLE_DEVICES");
    unsetenv("KUBERNETES_SERVICE_HOST");
    return cmocka_run_group_tests(tests, NULL, NULL);
}

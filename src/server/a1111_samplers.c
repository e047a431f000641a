#include "server/a1111_samplers.h"

#include <string.h>
#include <strings.h>

#include "base/attributes.h"

static const char *const euler_names[] = {"Euler", "k_euler"};

static const char *const other_names[] = {"Euler a",
                                          "k_euler_a",
                                          "k_euler_ancestral",
                                          "LMS",
                                          "k_lms",
                                          "Heun",
                                          "k_heun",
                                          "HeunPP2",
                                          "DPM2",
                                          "k_dpm_2",
                                          "DPM2 a",
                                          "k_dpm_2_a",
                                          "k_dpm_2_ancestral",
                                          "DPM++ 2S a",
                                          "k_dpmpp_2s_a",
                                          "DPM++ 2M",
                                          "k_dpmpp_2m",
                                          "DPM++ SDE",
                                          "k_dpmpp_sde",
                                          "DPM++ 2M SDE",
                                          "k_dpmpp_2m_sde",
                                          "DPM++ 2M SDE Heun",
                                          "k_dpmpp_2m_sde_heun",
                                          "DPM++ 3M SDE",
                                          "k_dpmpp_3m_sde",
                                          "DPM fast",
                                          "k_dpm_fast",
                                          "DPM adaptive",
                                          "k_dpm_ad",
                                          "Restart",
                                          "DDIM",
                                          "DDIM CFG++",
                                          "PLMS",
                                          "UniPC",
                                          "LCM",
                                          "IPNDM",
                                          "IPNDM_V",
                                          "DEIS",
                                          "DDPM",
                                          "Euler a2",
                                          "Kohaku_LoNyu_Yog"};

static const char *const schedules[] = {
    "Karras",           "Exponential", "Polyexponential", "SGM Uniform", "Uniform", "KL Optimal",
    "Align Your Steps", "Simple",      "Normal",          "DDIM",        "Beta",    "Turbo",
    "Automatic"};

static bool is_one_of(const char *const *names, size_t count, const char *text, size_t length)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(names[i]) == length && strncasecmp(names[i], text, length) == 0)
            return true;
    return false;
}

/* The length of the name without " Karras" or another schedule behind it. */
static size_t length_without_schedule(const char *name)
{
    size_t length = strlen(name);

    for (size_t i = 0; i < COUNT_OF(schedules); i++) {
        size_t tail = strlen(schedules[i]);

        if (length > tail + 1 && name[length - tail - 1] == ' ' &&
            strcasecmp(name + length - tail, schedules[i]) == 0)
            return length - tail - 1;
    }
    return length;
}

enum a1111_sampler a1111_sampler_find(const char *name)
{
    size_t length = length_without_schedule(name);

    if (is_one_of(euler_names, COUNT_OF(euler_names), name, length))
        return A1111_SAMPLER_EULER;
    return is_one_of(other_names, COUNT_OF(other_names), name, length) ? A1111_SAMPLER_OTHER
                                                                       : A1111_SAMPLER_UNKNOWN;
}

bool a1111_scheduler_is_ours(const char *name)
{
    static const char *const ours[] = {"", "automatic", "normal", "use same scheduler"};

    return is_one_of(ours, COUNT_OF(ours), name, strlen(name));
}

json_t *a1111_samplers_json(void)
{
    return json_pack("[{s:s, s:[s], s:{}}]", "name", A1111_SAMPLER, "aliases", "k_euler",
                     "options");
}

json_t *a1111_schedulers_json(void)
{
    return json_pack("[{s:s, s:s, s:n, s:f, s:b}, {s:s, s:s, s:n, s:f, s:b}]", "name", "automatic",
                     "label", "Automatic", "aliases", "default_rho", -1.0, "need_inner_model", 0,
                     "name", "normal", "label", A1111_SCHEDULER, "aliases", "default_rho", -1.0,
                     "need_inner_model", 0);
}

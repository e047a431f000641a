/* openapi.json of the native routes: every row is there, every reference leads somewhere, every
 * place in a path is described, names are unique. */
#include "support/support.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native_fakes.h"
#include "server/native_api.h"
#include "server/openapi.h"

struct fixture {
    struct hub *hub;
    struct native *native;
    struct openapi *openapi;
    struct http_routes parts[3];
    const struct openapi_parameter *parameters[2];
    json_t *document;
};

static int start(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct error err;

    fixture->hub = fake_hub_create(1);
    assert_true(
        native_create(&fixture->native, &(struct native_options){.hub = fixture->hub}, &err));
    fixture->parameters[0] = native_parameters();
    assert_true(openapi_create(&fixture->openapi,
                               &(struct openapi_options){.version = "1",
                                                         .parts = fixture->parts,
                                                         .parameters = fixture->parameters},
                               &err));
    fixture->parts[0] = native_routes(fixture->native);
    fixture->parts[1] = openapi_routes(fixture->openapi);
    fixture->document = openapi_document(fixture->openapi);
    assert_non_null(fixture->document);
    *state = fixture;
    return 0;
}

static int stop(void **state)
{
    struct fixture *fixture = *state;

    json_decref(fixture->document);
    openapi_destroy(fixture->openapi);
    native_destroy(fixture->native);
    fake_hub_destroy(fixture->hub);
    free(fixture);
    return 0;
}

static json_t *operation_of(struct fixture *fixture, const struct http_route *route)
{
    char method[16];

    snprintf(method, sizeof method, "%s", http_method_name(route->method));
    for (char *at = method; *at; at++)
        *at = (char)tolower((unsigned char)*at);
    return json_object_get(
        json_object_get(json_object_get(fixture->document, "paths"), route->path), method);
}

static void every_route_is_there_with_its_places_and_answers(void **state)
{
    struct fixture *fixture = *state;
    json_t *names = json_object();

    for (const struct http_routes *part = fixture->parts; part->routes; part++)
        for (size_t i = 0; i < part->count; i++) {
            const struct http_route *route = &part->routes[i];
            json_t *operation = operation_of(fixture, route), *parameter;
            json_t *responses = json_object_get(operation, "responses");
            const char *name = json_string_value(json_object_get(operation, "operationId"));
            bool is_described = !strchr(route->path, '{');
            size_t k;

            assert_non_null(operation);
            assert_non_null(name);
            assert_null(json_object_get(names, name));
            json_object_set_new(names, name, json_true());
            assert_non_null(json_object_get(responses, "200"));
            assert_non_null(json_object_get(responses, "401"));
            assert_non_null(json_object_get(responses, "503"));
            assert_int_equal(json_array_size(json_object_get(operation, "security")),
                             route->scope == SCOPE_PUBLIC ? 0 : 3);
            assert_int_equal(json_object_get(operation, "requestBody") != NULL,
                             route->request_schema != NULL);
            json_array_foreach(json_object_get(operation, "parameters"), k, parameter)
                is_described |=
                strcmp(json_string_value(json_object_get(parameter, "in")), "path") == 0;
            assert_true(is_described);
        }
    json_decref(names);
}

/* Every row of parameters belongs to a route: a path that was misspelt would be lost silently. */
static void every_parameter_belongs_to_a_route(void **state)
{
    struct fixture *fixture = *state;

    for (const struct openapi_parameter *at = native_parameters(); at->path; at++) {
        const struct http_route route = {.method = at->method, .path = at->path};
        json_t *list = json_object_get(operation_of(fixture, &route), "parameters"), *parameter;
        bool is_there = false;
        size_t i;

        json_array_foreach(list, i, parameter) is_there |=
            strcmp(json_string_value(json_object_get(parameter, "name")), at->name) == 0;
        assert_true(is_there);
    }
}

static void follow(const json_t *document, const json_t *value)
{
    const char *key;
    json_t *member;
    size_t i;

    json_object_foreach((json_t *)value, key, member)
    {
        if (strcmp(key, "$ref") == 0) {
            const char *name = strrchr(json_string_value(member), '/') + 1;
            const json_t *components = json_object_get(document, "components");

            assert_non_null(json_object_get(json_object_get(components, "schemas"), name));
        }
        follow(document, member);
    }
    json_array_foreach(value, i, member) follow(document, member);
}

static void every_reference_leads_somewhere(void **state)
{
    struct fixture *fixture = *state;

    follow(fixture->document, fixture->document);
    assert_string_equal(json_string_value(json_object_get(fixture->document, "openapi")), "3.1.0");
}

/* 202 stands where a job is queued, and nowhere else. */
static void only_queueing_is_accepted(void **state)
{
    struct fixture *fixture = *state;
    json_t *methods, *operation;
    const char *path, *method;

    json_object_foreach(json_object_get(fixture->document, "paths"), path,
                        methods) json_object_foreach(methods, method, operation)
        assert_int_equal(json_object_get(json_object_get(operation, "responses"), "202") != NULL,
                         strcmp(path, "/api/v1/jobs") == 0 && strcmp(method, "post") == 0);
}

static void the_page_and_its_files_are_served(void **state)
{
    static const struct {
        const char *file, *type;
    } rows[] = {{"docs.js", "text/javascript; charset=utf-8"},
                {"docs.css", "text/css; charset=utf-8"}};
    struct fixture *fixture = *state;
    const struct http_route *route = &fixture->parts[1].routes[2];

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct http_exchange exchange;

        fake_exchange_init(&exchange);
        fake_set(&exchange, "file", rows[i].file);
        route->handle(&exchange, fixture->openapi);
        assert_int_equal(exchange.status, 200);
        assert_string_equal(exchange.type, rows[i].type);
        fake_set(&exchange, "file", "../docs.js");
        route->handle(&exchange, fixture->openapi);
        assert_int_equal(exchange.status, 404);
        fake_exchange_finish(&exchange);
    }
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(every_route_is_there_with_its_places_and_answers),
        WITH_FIXTURE(every_parameter_belongs_to_a_route),
        WITH_FIXTURE(every_reference_leads_somewhere),
        WITH_FIXTURE(only_queueing_is_accepted),
        WITH_FIXTURE(the_page_and_its_files_are_served),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

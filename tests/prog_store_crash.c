/*
 * Power loss at every disk call of a small store on the simulated disk.
 *
 * The model works on a store of 16 KiB segments. Before every disk call that changes something, several images of what
 * a power loss would leave are made, and the store is opened on each: it must hold exactly the versions and contents
 * of the last durable checkpoint, or of the one being made, which its app_state names, and nothing else may be live.
 * It must then pass store_check and go on working. Some starts are themselves interrupted at a random call.
 *
 * Usage: prog_store_crash [--long] [seed]
 */
#include "store_model.h"

static struct {
    struct model_random random;
    struct model durable, making;
    bool created, in_progress;
    uint32_t images;
    uint64_t opened, interrupted, later, truncated;
    bool nesting;
} run;

static const struct store_options options_template = {
    .dir = "state", .segment_bytes = 16 << 10, .leaf_bytes = 2048, .inline_bytes = 128, .arenas = 2, .create = true};

/* Opens the store of an image and compares it with what it must hold. */
static void verify_image(struct disk *image, bool go_on)
{
    struct store_options options = options_template;
    struct store *store;
    options.disk = image;
    options.store_id[0] = 7;
    options.create = !run.created;
    MODEL_OK(store_open(&options, &store));
    disk_sim_watch(image, NULL, NULL);
    uint64_t number = 0;
    size_t length = store_app_state(store, &number, sizeof number);
    MODEL_CHECK(length == (number ? sizeof number : 0), "app_state of %zu bytes", length);
    static struct model model;
    if (run.in_progress && number == run.making.number) {
        model = run.making;
        run.later++;
    } else {
        MODEL_CHECK(number == run.durable.number, "checkpoint %llu, the durable one is %llu",
                    (unsigned long long)number, (unsigned long long)run.durable.number);
        model = run.durable;
    }
    model_reopened(&model);
    model_verify(store, &model);
    for (int i = 0; go_on && i < 6; i++) {
        (void)model_generation(store, &model, &run.random, model_below(&run.random, MODEL_LINEAGES), 6);
        model_drop(store, &model, &run.random);
        if (i == 3) {
            enum eng_status status = store_checkpoint(store, &number, sizeof number, true);
            MODEL_CHECK(status == ENG_OK || status == ENG_FULL, "checkpoint");
        }
        enum eng_status compacted = store_compact(store, 80, UINT64_MAX);
        MODEL_CHECK(compacted == ENG_OK || compacted == ENG_FULL, "compact");
    }
    if (go_on)
        model_verify(store, &model);
    store_close(&store);
    run.opened++;
}

/* While an image is being opened: another power loss. */
static void interrupt_open(void *context, struct disk *disk, uint64_t n)
{
    struct disk *image;
    (void)context;
    (void)n;
    if (run.nesting || model_below(&run.random, 3) != 0)
        return;
    run.nesting = true;
    MODEL_OK(disk_sim_crash(disk, model_next(&run.random), &image));
    verify_image(image, false);
    disk_close(&image);
    run.interrupted++;
    run.nesting = false;
}

static void crash_here(void *context, struct disk *disk, uint64_t n)
{
    (void)context;
    (void)n;
    for (uint32_t i = 0; i < run.images; i++) {
        struct disk *image;
        uint64_t seed = i < 2 ? i : model_next(&run.random);
        MODEL_OK(disk_sim_crash(disk, seed, &image));
        bool fresh = !disk_exists(image, "state/slots");
        MODEL_CHECK(!run.created || !fresh, "state/slots is gone");
        if (!fresh)
            MODEL_OK(store_check(image, "state", true, model_report, NULL));
        if (i == 3)
            disk_sim_watch(image, interrupt_open, NULL);
        verify_image(image, i == 2 || i == 3);
        disk_close(&image);
    }
}

static void one_run(uint64_t seed, uint32_t steps)
{
    struct disk *disk;
    struct store *store;
    struct store_options options = options_template;
    static struct model model;
    run.random.state = seed;
    run.created = run.in_progress = false;
    memset(&run.durable, 0, sizeof run.durable);
    memset(&model, 0, sizeof model);
    model.bytes_max = 200 + model_below(&run.random, 3) * 400;
    model.keep = 1 + model_below(&run.random, 4);
    model.every = model_below(&run.random, 3) * 5;
    run.durable.bytes_max = model.bytes_max;
    run.durable.keep = model.keep;
    MODEL_OK(disk_sim_open(model_below(&run.random, 2) ? 0 : 384 << 10, &disk));
    disk_sim_watch(disk, crash_here, NULL);
    options.disk = disk;
    options.store_id[0] = 7;
    MODEL_OK(store_open(&options, &store));
    run.created = true;
    for (uint32_t step = 0; step < steps; step++) {
        (void)model_generation(store, &model, &run.random, model_below(&run.random, MODEL_LINEAGES),
                               1 + model_below(&run.random, 10));
        model_pins(store, &model, &run.random);
        model_drop(store, &model, &run.random);
        if (step % 5 == 4) {
            model.number++;
            run.making = model;
            run.in_progress = true;
            enum eng_status status = store_checkpoint(store, &model.number, sizeof model.number, true);
            MODEL_CHECK(status == ENG_OK || status == ENG_FULL, "checkpoint");
            if (status == ENG_OK)
                run.durable = model;
            run.in_progress = false;
            if (status == ENG_OK && step % 10 == 9) { /* its checkpoints are of the same contents */
                status = store_truncate(store, 60 + 10 * model_below(&run.random, 5));
                MODEL_CHECK(status == ENG_OK || status == ENG_FULL, "truncate");
                run.truncated += status == ENG_OK;
            }
        }
        if (step % 3 == 0) {
            enum eng_status status = store_compact(store, 60 + 10 * model_below(&run.random, 4), UINT64_MAX);
            MODEL_CHECK(status == ENG_OK || status == ENG_FULL, "compact");
        }
        if (step % 16 == 7)
            MODEL_OK(store_shrink(store));
        if (step % 20 == 19) {
            store_close(&store);
            options.create = false;
            MODEL_OK(store_open(&options, &store));
            model = run.durable;
            model_reopened(&model);
        }
        model_verify(store, &model);
    }
    store_close(&store);
    disk_sim_watch(disk, NULL, NULL);
    disk_close(&disk);
}

int main(int argc, char **argv)
{
    bool is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
    uint64_t seed = argc > 1 + is_long ? strtoull(argv[1 + is_long], NULL, 0) : 1;
    run.images = 4;
    for (uint32_t i = 0; i < (is_long ? 400u : 8u); i++) {
        run.images = is_long ? 8 : 4;
        one_run(seed + i, 40);
    }
    printf("%llu images opened, %llu of them with the checkpoint being made, %llu starts interrupted\n",
           (unsigned long long)run.opened, (unsigned long long)run.later, (unsigned long long)run.interrupted);
    if (!run.later || !run.interrupted || !run.truncated) {
        fprintf(stderr, "the interesting cases did not happen\n");
        return 1;
    }
    return 0;
}

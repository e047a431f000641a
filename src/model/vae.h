/* VAE: between pictures and latents.
 *
 * Encoder and decoder of Rombach et al. 2022 (arXiv:2112.10752) with the 16 latent channels of SD 3
 * and no quantisation convolutions. Pictures and activations are channels-last; latents are
 * [B, 16, h, w] in model space: the sampler's, shifted and scaled. That shift and scale are applied
 * and undone here and nowhere else. Never changed by use.
 */
#ifndef MODEL_VAE_H
#define MODEL_VAE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "backend/weight_list.h"
#include "base/arena.h"
#include "base/error.h"
#include "weights/weights.h"

struct vae_decoder;
struct vae_encoder;
struct vae_decode_plan;
struct vae_encode_plan;

#define VAE_FACTOR 8 /* pixels a latent cell, each way */

/* Find and check the tensors. Borrow `weights` and `ops`. */
MUST_CHECK bool vae_decoder_create(struct vae_decoder **out, struct weights *weights,
                                   const struct backend_ops *ops, struct error *err);
void vae_decoder_destroy(struct vae_decoder *decoder); /* NULL is fine */
MUST_CHECK bool vae_encoder_create(struct vae_encoder **out, struct weights *weights,
                                   const struct backend_ops *ops, struct error *err);
void vae_encoder_destroy(struct vae_encoder *encoder); /* NULL is fine */

/* Append every convolution and linear. */
MUST_CHECK bool vae_decoder_list_weights(const struct vae_decoder *decoder,
                                         struct weight_list *list, struct error *err);
MUST_CHECK bool vae_encoder_list_weights(const struct vae_encoder *encoder,
                                         struct weight_list *list, struct error *err);

/* Place every tensor for latents [B, 16, height, width]. Normalised copies are made in bands of
 * `band_rows` rows of the picture at the resolution at hand; 0 takes whole pictures at once. Bands
 * need less memory and change nothing: group statistics are those of the whole picture. */
MUST_CHECK bool vae_decode_plan_create(struct vae_decode_plan **out,
                                       const struct vae_decoder *decoder, struct arena *scratch,
                                       int64_t batch, int64_t height, int64_t width,
                                       int64_t band_rows, struct error *err);
void vae_decode_plan_destroy(struct vae_decode_plan *plan); /* NULL is fine */
MUST_CHECK bool vae_encode_plan_create(struct vae_encode_plan **out,
                                       const struct vae_encoder *encoder, struct arena *scratch,
                                       int64_t batch, int64_t height, int64_t width,
                                       int64_t band_rows, struct error *err);
void vae_encode_plan_destroy(struct vae_encode_plan *plan); /* NULL is fine */

/* With false, the plan decodes latent / scale without adding the shift from now on: wrong, but what
 * diffusers' inpainting pipeline does, and needed to compare with it. */
void vae_decode_plan_add_shift(struct vae_decode_plan *plan, bool adds);

/* latent [B, 16, h, w] f32, model space -> rgb [B, 8h, 8w, 3] f, about [-1, 1] */
void vae_decode(struct vae_decode_plan *plan, struct stream *stream, struct tensor *rgb,
                const struct tensor *latent);

/* rgb [B, 8h, 8w, 3] f in [-1, 1] -> moments [B, 32, h, w] f32: mean, then logarithm of the
 * variance, of the encoder's own latent, not yet in model space */
void vae_encode(struct vae_encode_plan *plan, struct stream *stream, struct tensor *moments,
                const struct tensor *rgb);

/* On the host: latent[i] = (mean + exp(logvar / 2) noise[i] - shift) scale, in model space, for one
 * picture's moments [32, h, w]. noise NULL: the mean itself. */
void vae_sample(const struct vae_encoder *encoder, float *latent, const float *moments,
                const float *noise, int64_t height, int64_t width);

#endif

"""The demo model's networks: SD3.5 Medium's architecture, small. The classes are diffusers' and transformers' own."""
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

HEADS, BLOCKS, DUAL_BLOCKS = 3, 7, 3  # heads of width 64; the first blocks have the second, image-only attention
CLIP_L_WIDTH, CLIP_G_WIDTH, T5_WIDTH = 64, 128, 192
TEXT_LAYERS = 2
POSITION_SIDE = 32      # patches of 16 pixels: pictures of up to 512 x 512
NATIVE_SIDE = 256       # pixels
SCALE, SHIFT = 1.5305, .0609  # of the latents, as the real VAE's


def build_vae():
    # Groups of several channels: with one channel a group, a norm forgets the level of a plain background.
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 96), layers_per_block=2, latent_channels=16, norm_num_groups=8, sample_size=NATIVE_SIDE,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=SCALE, shift_factor=SHIFT)


def build_clip(width, activation, tokenizer):
    return CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=TEXT_LAYERS, num_attention_heads=width // 64,
        projection_dim=width, hidden_act=activation, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))


def build_t5(tokenizer):
    return T5EncoderModel(T5Config(
        vocab_size=len(tokenizer), d_model=T5_WIDTH, d_kv=64, d_ff=2 * T5_WIDTH, num_layers=TEXT_LAYERS, num_heads=T5_WIDTH // 64,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False))


def build_transformer():
    transformer = SD3Transformer2DModel(
        sample_size=NATIVE_SIDE // 8, patch_size=2, in_channels=16, out_channels=16, num_layers=BLOCKS, attention_head_dim=64,
        num_attention_heads=HEADS, joint_attention_dim=T5_WIDTH, caption_projection_dim=64 * HEADS,
        pooled_projection_dim=CLIP_L_WIDTH + CLIP_G_WIDTH, pos_embed_max_size=POSITION_SIDE, qk_norm="rms_norm",
        dual_attention_layers=tuple(range(DUAL_BLOCKS)))
    # Blocks begin as identities (adaLN-Zero; Peebles and Xie 2023, arXiv:2212.09748, section 3.2).
    for name, parameter in transformer.named_parameters():
        if ".norm1" in name or name.startswith(("norm_out", "proj_out")):
            nn.init.zeros_(parameter)
    return transformer


class TextEncoders(nn.Module):
    """Both CLIPs and T5, joined as the pipeline joins them."""

    def __init__(self, tokenizers):
        super().__init__()
        self.clip_l = build_clip(CLIP_L_WIDTH, "quick_gelu", tokenizers[0])
        self.clip_g = build_clip(CLIP_G_WIDTH, "gelu", tokenizers[1])
        self.t5 = build_t5(tokenizers[2])

    def forward(self, ids, keeps_t5=None):
        """ids: three of [B, 77] -> context [B, 154, T5_WIDTH], pooled [B, CLIP_L_WIDTH + CLIP_G_WIDTH]. keeps_t5 [B] bool:
        where not, zeros stand for T5, as in a pipeline without it."""
        clips = [clip(i, output_hidden_states=True) for clip, i in zip((self.clip_l, self.clip_g), ids)]
        clip_context = torch.cat([c.hidden_states[-2] for c in clips], -1)
        clip_context = nn.functional.pad(clip_context, (0, T5_WIDTH - clip_context.shape[-1]))
        t5_context = self.t5(ids[2])[0]
        if keeps_t5 is not None:
            t5_context = t5_context * keeps_t5[:, None, None]
        return torch.cat([clip_context, t5_context], 1), torch.cat([c.text_embeds for c in clips], -1)

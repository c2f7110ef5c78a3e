; Adds up trees for blocks of rows. `bundle.programs.llvm` says how, and fills in:
;
;   $T      the type of a feature: float or double
;   $M      the bits of the leaves of a tree: i32 or i64
;   $LANES  how many rows a block has

%Forest = type {
  i64,  ; columns of a row
  i64,  ; slots: columns that a test looks at
  i64,  ; trees
  i64,  ; targets
  i64,  ; leaves that each tree has room for
  ptr,  ; i64 per slot: its column
  ptr,  ; i64 per tree, two: where its tests end that a missing value fails, and where all of them
  ptr,  ; i64 per test: its slot
  ptr,  ; $T per test: its threshold
  ptr,  ; $M per test: the leaves that are left where it fails
  ptr,  ; double per leaf: its weight
  ptr   ; i64 per tree: its target
}

declare <$LANES x $M> @llvm.cttz.v$LANES${M}(<$LANES x $M>, i1)
declare <$LANES x double> @llvm.masked.gather.v${LANES}f64.v${LANES}p0(
  <$LANES x ptr>, i32, <$LANES x i1>, <$LANES x double>)

; %scratch has room for a block: $LANES doubles per target, then $LANES features per slot.
define void @add_up(ptr noalias readonly %forest, ptr noalias readonly %x, i64 %rows,
                    ptr noalias %scratch, ptr noalias %sums) {
entry:
  %columns = load i64, ptr %forest
  %slots_at = getelementptr %Forest, ptr %forest, i64 0, i32 1
  %slots = load i64, ptr %slots_at
  %trees_at = getelementptr %Forest, ptr %forest, i64 0, i32 2
  %trees = load i64, ptr %trees_at
  %targets_at = getelementptr %Forest, ptr %forest, i64 0, i32 3
  %targets = load i64, ptr %targets_at
  %room_at = getelementptr %Forest, ptr %forest, i64 0, i32 4
  %room = load i64, ptr %room_at
  %columns_at = getelementptr %Forest, ptr %forest, i64 0, i32 5
  %column_of = load ptr, ptr %columns_at
  %ends_at = getelementptr %Forest, ptr %forest, i64 0, i32 6
  %ends = load ptr, ptr %ends_at
  %slot_ofs_at = getelementptr %Forest, ptr %forest, i64 0, i32 7
  %slot_of = load ptr, ptr %slot_ofs_at
  %thresholds_at = getelementptr %Forest, ptr %forest, i64 0, i32 8
  %thresholds = load ptr, ptr %thresholds_at
  %masks_at = getelementptr %Forest, ptr %forest, i64 0, i32 9
  %masks = load ptr, ptr %masks_at
  %weights_at = getelementptr %Forest, ptr %forest, i64 0, i32 10
  %weights = load ptr, ptr %weights_at
  %target_ofs_at = getelementptr %Forest, ptr %forest, i64 0, i32 11
  %target_of = load ptr, ptr %target_ofs_at
  %last_row = sub i64 %rows, 1
  %features = getelementptr <$LANES x double>, ptr %scratch, i64 %targets
  %has_slots = icmp ne i64 %slots, 0
  br label %block

; A block of rows: its features go slot by slot. Lanes beyond the last row repeat that one.

block:
  %first = phi i64 [0, %entry], [%first_next, %block_end]
  br i1 %has_slots, label %slot, label %clear

slot:
  %s = phi i64 [0, %block], [%s_next, %slot_end]
  %column_at = getelementptr i64, ptr %column_of, i64 %s
  %column = load i64, ptr %column_at
  %slot_first = mul i64 %s, $LANES
  br label %lane

lane:
  %l = phi i64 [0, %slot], [%l_next, %lane]
  %own_row = add i64 %first, %l
  %is_over = icmp ugt i64 %own_row, %last_row
  %row = select i1 %is_over, i64 %last_row, i64 %own_row
  %row_first = mul i64 %row, %columns
  %x_place = add i64 %row_first, %column
  %x_at = getelementptr $T, ptr %x, i64 %x_place
  %value = load $T, ptr %x_at
  %feature_place = add i64 %slot_first, %l
  %feature_at = getelementptr $T, ptr %features, i64 %feature_place
  store $T %value, ptr %feature_at
  %l_next = add i64 %l, 1
  %lanes_done = icmp eq i64 %l_next, $LANES
  br i1 %lanes_done, label %slot_end, label %lane

slot_end:
  %s_next = add i64 %s, 1
  %slots_done = icmp eq i64 %s_next, %slots
  br i1 %slots_done, label %clear, label %slot

clear:
  %c = phi i64 [0, %block], [0, %slot_end], [%c_next, %clear]
  %clear_at = getelementptr <$LANES x double>, ptr %scratch, i64 %c
  store <$LANES x double> zeroinitializer, ptr %clear_at, align 8
  %c_next = add i64 %c, 1
  %clear_done = icmp eq i64 %c_next, %targets
  br i1 %clear_done, label %tree, label %clear

; A tree: each test that fails takes the leaves on its other side away.

tree:
  %t = phi i64 [0, %clear], [%t_next, %leaf]
  %begin = phi i64 [0, %clear], [%end, %leaf]
  %two_t = mul i64 %t, 2
  %middle_at = getelementptr i64, ptr %ends, i64 %two_t
  %middle = load i64, ptr %middle_at
  %end_at = getelementptr i64, ptr %middle_at, i64 1
  %end = load i64, ptr %end_at
  %none_fails = icmp eq i64 %begin, %middle
  br i1 %none_fails, label %passing, label %fail

fail:
  %f = phi i64 [%begin, %tree], [%f_next, %fail]
  %f_left = phi <$LANES x $M> [splat ($M -1), %tree], [%f_left_next, %fail]
  %f_slot_at = getelementptr i64, ptr %slot_of, i64 %f
  %f_slot = load i64, ptr %f_slot_at
  %f_values_at = getelementptr <$LANES x $T>, ptr %features, i64 %f_slot
  %f_values = load <$LANES x $T>, ptr %f_values_at, align 4
  %f_threshold_at = getelementptr $T, ptr %thresholds, i64 %f
  %f_threshold = load $T, ptr %f_threshold_at
  %f_one = insertelement <$LANES x $T> poison, $T %f_threshold, i32 0
  %f_all = shufflevector <$LANES x $T> %f_one, <$LANES x $T> poison, <$LANES x i32> zeroinitializer
  %f_fails = fcmp ugt <$LANES x $T> %f_values, %f_all
  %f_mask_at = getelementptr $M, ptr %masks, i64 %f
  %f_mask = load $M, ptr %f_mask_at
  %f_one_mask = insertelement <$LANES x $M> poison, $M %f_mask, i32 0
  %f_all_masks = shufflevector <$LANES x $M> %f_one_mask, <$LANES x $M> poison, <$LANES x i32> zeroinitializer
  %f_kept = and <$LANES x $M> %f_left, %f_all_masks
  %f_left_next = select <$LANES x i1> %f_fails, <$LANES x $M> %f_kept, <$LANES x $M> %f_left
  %f_next = add i64 %f, 1
  %f_done = icmp eq i64 %f_next, %middle
  br i1 %f_done, label %passing, label %fail

passing:
  %between = phi <$LANES x $M> [splat ($M -1), %tree], [%f_left_next, %fail]
  %none_passes = icmp eq i64 %middle, %end
  br i1 %none_passes, label %leaf, label %pass

pass:
  %p = phi i64 [%middle, %passing], [%p_next, %pass]
  %p_left = phi <$LANES x $M> [%between, %passing], [%p_left_next, %pass]
  %p_slot_at = getelementptr i64, ptr %slot_of, i64 %p
  %p_slot = load i64, ptr %p_slot_at
  %p_values_at = getelementptr <$LANES x $T>, ptr %features, i64 %p_slot
  %p_values = load <$LANES x $T>, ptr %p_values_at, align 4
  %p_threshold_at = getelementptr $T, ptr %thresholds, i64 %p
  %p_threshold = load $T, ptr %p_threshold_at
  %p_one = insertelement <$LANES x $T> poison, $T %p_threshold, i32 0
  %p_all = shufflevector <$LANES x $T> %p_one, <$LANES x $T> poison, <$LANES x i32> zeroinitializer
  %p_fails = fcmp ogt <$LANES x $T> %p_values, %p_all
  %p_mask_at = getelementptr $M, ptr %masks, i64 %p
  %p_mask = load $M, ptr %p_mask_at
  %p_one_mask = insertelement <$LANES x $M> poison, $M %p_mask, i32 0
  %p_all_masks = shufflevector <$LANES x $M> %p_one_mask, <$LANES x $M> poison, <$LANES x i32> zeroinitializer
  %p_kept = and <$LANES x $M> %p_left, %p_all_masks
  %p_left_next = select <$LANES x i1> %p_fails, <$LANES x $M> %p_kept, <$LANES x $M> %p_left
  %p_next = add i64 %p, 1
  %p_done = icmp eq i64 %p_next, %end
  br i1 %p_done, label %leaf, label %pass

; The first leaf that is left is the row's.

leaf:
  %left = phi <$LANES x $M> [%between, %passing], [%p_left_next, %pass]
  %leaf_of = call <$LANES x $M> @llvm.cttz.v$LANES${M}(<$LANES x $M> %left, i1 true)
  %own_first = mul i64 %t, %room
  %own_weights = getelementptr double, ptr %weights, i64 %own_first
  %weights_of = getelementptr double, ptr %own_weights, <$LANES x $M> %leaf_of
  %weight = call <$LANES x double> @llvm.masked.gather.v${LANES}f64.v${LANES}p0(
    <$LANES x ptr> %weights_of, i32 8, <$LANES x i1> splat (i1 true), <$LANES x double> poison)
  %target_at = getelementptr i64, ptr %target_of, i64 %t
  %target = load i64, ptr %target_at
  %sum_at = getelementptr <$LANES x double>, ptr %scratch, i64 %target
  %sum = load <$LANES x double>, ptr %sum_at, align 8
  %sum_next = fadd <$LANES x double> %sum, %weight
  store <$LANES x double> %sum_next, ptr %sum_at, align 8
  %t_next = add i64 %t, 1
  %trees_done = icmp eq i64 %t_next, %trees
  br i1 %trees_done, label %write, label %tree

write:
  %rows_left = sub i64 %rows, %first
  %is_whole = icmp ugt i64 %rows_left, $LANES
  %count = select i1 %is_whole, i64 $LANES, i64 %rows_left
  br label %write_target

write_target:
  %w = phi i64 [0, %write], [%w_next, %write_end]
  %w_first = mul i64 %w, $LANES
  br label %write_row

write_row:
  %k = phi i64 [0, %write_target], [%k_next, %write_row]
  %made_place = add i64 %w_first, %k
  %made_at = getelementptr double, ptr %scratch, i64 %made_place
  %made = load double, ptr %made_at
  %out_row = add i64 %first, %k
  %out_first = mul i64 %out_row, %targets
  %out_place = add i64 %out_first, %w
  %out_at = getelementptr double, ptr %sums, i64 %out_place
  store double %made, ptr %out_at
  %k_next = add i64 %k, 1
  %rows_written = icmp eq i64 %k_next, %count
  br i1 %rows_written, label %write_end, label %write_row

write_end:
  %w_next = add i64 %w, 1
  %targets_written = icmp eq i64 %w_next, %targets
  br i1 %targets_written, label %block_end, label %write_target

block_end:
  %first_next = add i64 %first, $LANES
  %is_done = icmp uge i64 %first_next, %rows
  br i1 %is_done, label %exit, label %block

exit:
  ret void
}
